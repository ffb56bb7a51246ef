//! Which lines are logged: a filter, and beside it containers whose lines are logged at a lower level too.
//!
//! `EnvFilter` knows the values of spans' fields only. A line about a container carries its name in the field `container`,
//! so that whether it is wanted shows when it is there.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::callsite::rebuild_interest_cache;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer};

/// The field that names a container.
const FIELD: &str = "container";

/// What is in force.
pub(super) struct Rules {
    filter: EnvFilter,
    /// Names of containers, and the level of lines about them.
    containers: Vec<(Vec<String>, LevelFilter)>,
    /// The lowest of these levels.
    lowest: LevelFilter,
}

impl Rules {
    pub(super) fn new(filter: EnvFilter, containers: Vec<(Vec<String>, LevelFilter)>) -> Self {
        let lowest = containers.iter().map(|(_, level)| *level).max().unwrap_or(LevelFilter::OFF);
        Self { filter, containers, lowest }
    }

    /// Whether such a line may be wanted for the container that it is about.
    fn may_raise(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.lowest && metadata.is_event() && metadata.fields().field(FIELD).is_some()
    }

    fn raises(&self, event: &Event<'_>) -> bool {
        let mut name = Name::default();
        event.record(&mut name);
        let level = event.metadata().level();
        self.containers.iter().any(|(names, raised)| level <= raised && names.contains(&name.0))
    }
}

/// The layer that lets lines through; clones share the rules.
#[derive(Clone)]
pub(super) struct ScopedFilter(Arc<ArcSwap<Rules>>);

impl ScopedFilter {
    pub(super) fn new(rules: Rules) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(rules)))
    }

    /// Puts other rules in force.
    pub(super) fn set(&self, rules: Rules) {
        self.0.store(Arc::new(rules));
        // What each place in the code has been told of whether it is wanted is out of date.
        rebuild_interest_cache();
        log::set_max_level(match LevelFilter::current().into_level() {
            None => log::LevelFilter::Off,
            Some(tracing::Level::ERROR) => log::LevelFilter::Error,
            Some(tracing::Level::WARN) => log::LevelFilter::Warn,
            Some(tracing::Level::INFO) => log::LevelFilter::Info,
            Some(tracing::Level::DEBUG) => log::LevelFilter::Debug,
            Some(tracing::Level::TRACE) => log::LevelFilter::Trace,
        });
    }
}

impl<S: Subscriber> Layer<S> for ScopedFilter {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        let rules = self.0.load();
        let interest = Layer::<S>::register_callsite(&rules.filter, metadata);
        if !interest.is_always() && rules.may_raise(metadata) { Interest::sometimes() } else { interest }
    }

    fn enabled(&self, metadata: &Metadata<'_>, ctx: Context<'_, S>) -> bool {
        let rules = self.0.load();
        rules.may_raise(metadata) || rules.filter.enabled(metadata, ctx)
    }

    fn event_enabled(&self, event: &Event<'_>, ctx: Context<'_, S>) -> bool {
        let rules = self.0.load();
        let metadata = event.metadata();
        !rules.may_raise(metadata) || rules.filter.enabled(metadata, ctx) || rules.raises(event)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let rules = self.0.load();
        rules.filter.max_level_hint().map(|level| level.max(rules.lowest))
    }

    fn on_new_span(&self, attrs: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        self.0.load().filter.on_new_span(attrs, id, ctx);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        self.0.load().filter.on_record(id, values, ctx);
    }

    fn on_enter(&self, id: &Id, ctx: Context<'_, S>) {
        self.0.load().filter.on_enter(id, ctx);
    }

    fn on_exit(&self, id: &Id, ctx: Context<'_, S>) {
        self.0.load().filter.on_exit(id, ctx);
    }

    fn on_close(&self, id: Id, ctx: Context<'_, S>) {
        self.0.load().filter.on_close(id, ctx);
    }
}

/// The value of the field [`FIELD`].
#[derive(Default)]
struct Name(String);

impl Visit for Name {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == FIELD {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == FIELD {
            // What is given as `%name` comes here, and shows as it would in the line.
            self.0 = format!("{value:?}");
        }
    }
}
