//! A client of the control socket, which knows nothing of the daemon's own: lines of JSON.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::{HANG, wait};

/// A connection to a control socket.
pub struct Control {
    stream: UnixStream,
    input: BufReader<UnixStream>,
    next: i64,
    events: VecDeque<Value>,
}

impl Control {
    /// Connects. The daemon must be there.
    #[track_caller]
    #[must_use]
    pub fn connect(path: &Path) -> Self {
        let stream =
            UnixStream::connect(path).unwrap_or_else(|e| panic!("no control socket at {}: {e}", path.display()));
        Self::on(stream)
    }

    /// Takes a connection that stands already.
    #[track_caller]
    #[must_use]
    pub fn on(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(HANG)).expect("a timeout");
        stream.set_write_timeout(Some(HANG)).expect("a timeout");
        let input = BufReader::new(stream.try_clone().expect("another handle"));
        Self { stream, input, next: 1, events: VecDeque::new() }
    }

    /// Asks for something that works, and gives the result.
    #[track_caller]
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        match self.try_call(method, params.clone()) {
            Ok(result) => result,
            Err((code, message)) => panic!("{method} {params}: error {code}: {message}"),
        }
    }

    /// Asks for something: the result, or the error's code and message.
    #[track_caller]
    pub fn try_call(&mut self, method: &str, params: Value) -> Result<Value, (i64, String)> {
        let id = self.next;
        self.next += 1;
        self.send(
            format!("{}\n", json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })).as_bytes(),
        );
        let mut answer = self.answer();
        assert_eq!(answer["id"], json!(id), "{answer}");
        match answer.get("error") {
            None => Ok(answer["result"].take()),
            Some(error) => {
                let code = error["code"].as_i64().expect("a code");
                Err((code, error["message"].as_str().expect("a message").to_owned()))
            }
        }
    }

    /// Asks for something that must be refused, and gives the error's code.
    #[track_caller]
    pub fn refused(&mut self, method: &str, params: Value) -> i64 {
        match self.try_call(method, params.clone()) {
            Ok(result) => panic!("{method} {params} was not refused: {result}"),
            Err((code, message)) => {
                assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
                code
            }
        }
    }

    /// Subscribes to events.
    #[track_caller]
    pub fn subscribe(&mut self, topics: &[&str]) {
        self.call("events.subscribe", json!({ "topics": topics }));
    }

    /// The parameters of the next `event`; panics when none comes, or another notification.
    #[track_caller]
    pub fn next_event(&mut self) -> Value {
        let mut notification = self.notification();
        assert_eq!(notification["method"], json!("event"), "{notification}");
        notification["params"].take()
    }

    /// Waits for an event that `fits`; others are passed over.
    #[track_caller]
    pub fn event_that(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        wait::until(what, || Some(self.next_event()).filter(|event| fits(event)))
    }

    /// The next notification, whatever it is.
    #[track_caller]
    pub fn notification(&mut self) -> Value {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        let message = self.message().expect("a notification, not the end");
        assert!(message.get("id").is_none(), "not a notification: {message}");
        message
    }

    /// The next answer; notifications before it are kept.
    #[track_caller]
    pub fn answer(&mut self) -> Value {
        loop {
            let message = self.message().expect("an answer, not the end");
            if message.get("id").is_some() {
                return message;
            }
            self.events.push_back(message);
        }
    }

    /// The next message; none at the end of the connection.
    #[track_caller]
    pub fn message(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.input.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => {
                assert!(line.ends_with('\n'), "half a line: {line:?}");
                let message: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
                assert_eq!(message["jsonrpc"], json!("2.0"), "{line}");
                Some(message)
            }
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(e) => panic!("the control socket said nothing more: {e}"),
        }
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the daemon reads");
    }

    /// The same, where the daemon may have ended the connection.
    ///
    /// # Errors
    /// The error of the write.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }
}
