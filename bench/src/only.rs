//! What `--only` takes: the measures of the data paths, and the registry, which is none.

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::measure::Measure;

const REGISTRY: &str = "registry";

/// One thing asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Only {
    /// A measure of the data paths.
    Measure(Measure),
    /// The load of a large cluster on etcd.
    Registry,
}

/// Reads one.
pub(super) fn parser() -> impl TypedValueParser<Value = Only> {
    let measures = Measure::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    let registry = PossibleValue::new(REGISTRY).help("The load of a large cluster on etcd, with a table of its own");
    PossibleValuesParser::new(measures.chain([registry]))
        .map(|name| Measure::from_str(&name, false).map_or(Only::Registry, Only::Measure))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[arg(long, value_parser = parser())]
        only: Vec<Only>,
    }

    #[test]
    fn measures_and_the_registry_are_told_apart() {
        let line = Line::try_parse_from(["bench", "--only", "bulk_down", "--only", "registry"]).unwrap();
        assert_eq!(line.only, [Only::Measure(Measure::BulkDown), Only::Registry]);
        assert!(Line::try_parse_from(["bench", "--only", "nothing"]).is_err());
    }
}
