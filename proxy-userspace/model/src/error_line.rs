//! Errors for a log.

use std::error::Error;

/// An error and what caused it, in one line: the outermost alone often says no more than "transport error". What is in the
/// text already is not said again.
pub fn error_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::io;

    use super::*;

    #[derive(Debug)]
    struct Effect(&'static str, io::Error);

    impl fmt::Display for Effect {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Effect {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn causes_are_told_once_and_in_one_line() {
        let cause = || io::Error::other("the cause\nof it");
        assert_eq!(error_line(&Effect("the effect", cause())), "the effect: the cause; of it");
        assert_eq!(error_line(&Effect("the cause\nof it, and more", cause())), "the cause; of it, and more");
    }
}
