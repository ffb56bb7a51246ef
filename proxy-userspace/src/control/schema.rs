//! The JSON schema of the protocol, made from the types.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use portsplice_control::api;
use portsplice_discovery::container::Registration;

/// The schema as text: for each method its parameters and its result, and the notifications.
pub fn text() -> String {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let methods = methods(&mut generator);
    let notifications = json!({
        "event": { "params": of::<api::Event>(&mut generator) },
        "lagged": { "params": of::<api::Lagged>(&mut generator) },
    });
    let definitions = generator.take_definitions(true);
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The control socket of portsplice node",
        "protocol": api::PROTOCOL,
        "methods": methods,
        "notifications": notifications,
        "$defs": definitions,
    });
    format!("{schema:#}\n")
}

fn methods(g: &mut SchemaGenerator) -> Value {
    let mut methods = Map::new();
    let mut add = |name: &str, params: Schema, result: Schema| {
        methods.insert(name.to_owned(), json!({ "params": params, "result": result }));
    };
    add("hello", of::<api::Empty>(g), of::<api::Hello>(g));
    add("container.register", of::<Registration>(g), of::<api::ContainerDetail>(g));
    add("container.unregister", of::<api::Named>(g), of::<api::Empty>(g));
    add("container.list", of::<api::Empty>(g), of::<api::ContainerList>(g));
    add("container.get", of::<api::Named>(g), of::<api::ContainerDetail>(g));
    add("ports.list", of::<api::Filter>(g), of::<api::PortList>(g));
    add("connections.list", of::<api::Filter>(g), of::<api::ConnectionList>(g));
    add("connections.close", of::<api::Close>(g), of::<api::Closed>(g));
    add("log.set", of::<api::LogSet>(g), of::<api::LogState>(g));
    add("events.subscribe", of::<api::Subscription>(g), of::<api::Subscription>(g));
    add("drain", of::<api::Empty>(g), of::<api::Draining>(g));
    add("stats", of::<api::Empty>(g), of::<api::Stats>(g));
    Value::Object(methods)
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use portsplice_control::api::METHODS;

    #[test]
    fn every_method_is_in_it() {
        let schema: Value = serde_json::from_str(&text()).unwrap();
        let mut described: Vec<&str> = schema["methods"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut methods = METHODS.to_vec();
        described.sort_unstable();
        methods.sort_unstable();
        assert_eq!(described, methods);
    }

    #[test]
    fn the_documentation_has_every_method_and_every_code() {
        let text = include_str!("../../../docs/control.md");
        for method in METHODS {
            let heading = |line: &str| line.starts_with("### ") && line[4..].split(", ").any(|name| name == *method);
            assert!(text.lines().any(heading), "{method} has no heading");
        }
        for line in include_str!("../../control/src/wire/message.rs").lines() {
            if let Some((_, code)) = line.split_once(": i32 = ") {
                let row = format!("| {} | ", code.trim_end_matches(';'));
                assert!(text.contains(&row), "no row begins with {row}");
            }
        }
    }

    /// `PORTSPLICE_WRITE_SCHEMA=1 cargo test -p portsplice --lib control::schema` writes it anew.
    #[test]
    fn the_one_in_the_documentation_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/control.schema.json");
        if std::env::var_os("PORTSPLICE_WRITE_SCHEMA").is_some() {
            std::fs::write(&path, text()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == text(),
            "docs/control.schema.json is not what the types say: \
             PORTSPLICE_WRITE_SCHEMA=1 cargo test -p portsplice --lib control::schema writes it anew"
        );
    }
}
