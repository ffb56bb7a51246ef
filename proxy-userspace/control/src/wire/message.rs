//! JSON-RPC 2.0 messages, one a line.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What every message says in its member `jsonrpc`.
pub const VERSION: &str = "2.0";

/// The codes of errors. They are part of the protocol: none is ever given another meaning.
pub mod code {
    /// The line is no JSON (JSON-RPC 2.0, section 5.1, as the next four).
    pub const PARSE: i32 = -32700;
    /// The JSON is no request.
    pub const INVALID_REQUEST: i32 = -32600;
    /// There is no such method.
    pub const NO_METHOD: i32 = -32601;
    /// The parameters are not those of the method.
    pub const INVALID_PARAMS: i32 = -32602;
    /// A mistake in the daemon.
    pub const INTERNAL: i32 = -32603;
    /// The peer is neither root nor of the socket's group.
    pub const NOT_ALLOWED: i32 = -32001;
    /// The socket has as many clients as it takes.
    pub const BUSY: i32 = -32002;
    /// The line is longer than the limit.
    pub const TOO_LONG: i32 = -32003;
    /// No container goes by the name.
    pub const NO_CONTAINER: i32 = -32010;
    /// Several containers go by the name.
    pub const AMBIGUOUS: i32 = -32011;
    /// The name belongs to another registration.
    pub const NAME_TAKEN: i32 = -32012;
    /// The process has ended, or is another one than was meant.
    pub const NO_PROCESS: i32 = -32013;
    /// The namespace cannot be opened or entered.
    pub const NO_NAMESPACE: i32 = -32014;
    /// The container was not registered over this socket.
    pub const NOT_REGISTERED: i32 = -32015;
    /// The registration cannot be kept: its file cannot be written.
    pub const PERSIST_FAILED: i32 = -32016;
}

/// What a request is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Id {
    /// A whole number.
    Number(i64),
    /// A text.
    Text(String),
    /// None: also of the answer to what could not be read as a request.
    Null(()),
}

/// A request, or a notification.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// None for a notification, which is not answered.
    pub id: Option<Id>,
    /// What is asked for.
    pub method: String,
    /// An object; empty if none was given.
    pub params: Value,
}

/// An error, as it is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// One of [`code`].
    pub code: i32,
    /// What is wrong and what to do.
    pub message: String,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    jsonrpc: String,
    /// The request's.
    pub id: Id,
    /// What was asked for; there is this or an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

/// What is told without being asked each time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    jsonrpc: String,
    /// What it is.
    pub method: String,
    /// What it says.
    pub params: Value,
}

/// A request as it stands on the line. Members that it does not know are left alone, as JSON-RPC has it.
#[derive(Deserialize)]
struct Raw {
    jsonrpc: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    id: Option<Value>,
    method: Option<Value>,
    #[serde(default)]
    params: Option<Value>,
}

/// `null` is something that was given.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Call {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong, and the id to answer to, which is null where none can be read.
    pub fn parse(line: &[u8]) -> Result<Self, (Id, Fault)> {
        let no_id = |fault| (Id::Null(()), fault);
        if line.trim_ascii_start().starts_with(b"[") && serde_json::from_slice::<IgnoredAny>(line).is_ok() {
            return Err(no_id(Fault::new(
                code::INVALID_REQUEST,
                "batches are not supported: write one request per line",
            )));
        }
        let raw: Raw = serde_json::from_slice(line).map_err(|error| {
            let kind = if error.is_data() { code::INVALID_REQUEST } else { code::PARSE };
            no_id(Fault::new(kind, format!("the line is not a JSON-RPC 2.0 request: {error}")))
        })?;
        let id = raw.id.map(Id::of).transpose().map_err(no_id)?;
        let wrong = |message: &str| (id.clone().unwrap_or(Id::Null(())), Fault::new(code::INVALID_REQUEST, message));
        if raw.jsonrpc.as_ref().and_then(Value::as_str) != Some(VERSION) {
            return Err(wrong(r#"write "jsonrpc": "2.0""#));
        }
        let Some(Value::String(method)) = raw.method else {
            return Err(wrong(r#"write the method's name: "method": "hello""#));
        };
        match raw.params.unwrap_or(Value::Null) {
            Value::Null => Ok(Self { id, method, params: Value::Object(serde_json::Map::new()) }),
            params @ Value::Object(_) => Ok(Self { id, method, params }),
            _ => Err((
                id.unwrap_or(Id::Null(())),
                Fault::new(code::INVALID_PARAMS, r#"parameters are passed by name: "params": {"name": value}"#),
            )),
        }
    }

    /// A request as a client writes it, with the line's end.
    pub fn line(id: i64, method: &str, params: &Value) -> Vec<u8> {
        let call = serde_json::json!({ "jsonrpc": VERSION, "id": id, "method": method, "params": params });
        with_end(&call)
    }
}

impl Id {
    fn of(value: Value) -> Result<Self, Fault> {
        serde_json::from_value(value)
            .map_err(|_| Fault::new(code::INVALID_REQUEST, "an id is a string or a 64-bit integer"))
    }
}

impl Fault {
    /// An error.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl Answer {
    /// The answer to the request `id`.
    pub fn new(id: Id, result: Result<Value, Fault>) -> Self {
        let (result, error) = match result {
            Ok(result) => (Some(result), None),
            Err(fault) => (None, Some(fault)),
        };
        Self { jsonrpc: VERSION.to_owned(), id, result, error }
    }

    /// As it goes out, with the line's end.
    pub fn line(&self) -> Vec<u8> {
        with_end(self)
    }
}

impl Notification {
    /// News.
    pub fn new(method: &str, params: Value) -> Self {
        Self { jsonrpc: VERSION.to_owned(), method: method.to_owned(), params }
    }

    /// As it goes out, with the line's end.
    pub fn line(&self) -> Vec<u8> {
        with_end(self)
    }
}

/// JSON on one line: serde_json escapes what would end it.
fn with_end(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("messages have only texts as keys");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fault(line: &str) -> (Id, i32) {
        let (id, fault) = Call::parse(line.as_bytes()).unwrap_err();
        (id, fault.code)
    }

    #[test]
    fn requests_and_notifications() {
        let call =
            Call::parse(br#" {"jsonrpc":"2.0","id":7,"method":"hello","params":{"a":1},"other":true} "#).unwrap();
        assert_eq!(call, Call { id: Some(Id::Number(7)), method: "hello".into(), params: json!({"a": 1}) });
        let call = Call::parse(br#"{"jsonrpc":"2.0","id":"x","method":"hello"}"#).unwrap();
        assert_eq!((call.id, call.params), (Some(Id::Text("x".into())), json!({})));
        let call = Call::parse(br#"{"jsonrpc":"2.0","method":"hello","params":null}"#).unwrap();
        assert_eq!((call.id, call.params), (None, json!({})));
        let call = Call::parse(br#"{"jsonrpc":"2.0","id":null,"method":"hello"}"#).unwrap();
        assert_eq!(call.id, Some(Id::Null(())));
        assert_eq!(Call::parse(&Call::line(3, "stats", &json!({}))).unwrap().id, Some(Id::Number(3)));
    }

    #[test]
    fn what_is_no_request_is_told_with_its_id_where_it_has_one() {
        let null = Id::Null(());
        for line in ["", "{", "hello", "{\"jsonrpc\":\"2.0\"", "\u{1}", "[1", "{}}", "{\"id\":1,}"] {
            assert_eq!(fault(line), (null.clone(), code::PARSE), "{line}");
        }
        for line in ["1", "\"x\"", "null", "[]", "[{}]", "{}", r#"{"id":1,"id":2}"#, r#"{"id":1.5}"#, r#"{"id":{}}"#] {
            assert_eq!(fault(line), (null.clone(), code::INVALID_REQUEST), "{line}");
        }
        let one = Id::Number(1);
        for line in [
            r#"{"id":1,"method":"hello"}"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"hello"}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":5}"#,
        ] {
            assert_eq!(fault(line), (one.clone(), code::INVALID_REQUEST), "{line}");
        }
        let by_place = r#"{"jsonrpc":"2.0","id":1,"method":"hello","params":[1]}"#;
        assert_eq!(fault(by_place), (one, code::INVALID_PARAMS));
        assert_eq!(fault(&"[".repeat(100_000)).1, code::PARSE, "nesting has its limit");
    }

    #[test]
    fn answers_have_a_result_or_an_error_and_one_line() {
        let answer = Answer::new(Id::Number(1), Ok(json!("a\nb"))).line();
        assert_eq!(answer, b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"a\\nb\"}\n");
        let answer = Answer::new(Id::Null(()), Err(Fault::new(code::PARSE, "x"))).line();
        assert_eq!(answer, b"{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"x\"}}\n");
        let read: Answer = serde_json::from_slice(&answer).unwrap();
        assert_eq!(read.error.unwrap().code, code::PARSE);
    }
}
