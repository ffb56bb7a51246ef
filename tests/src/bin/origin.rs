//! A blocking server with a thread for each connection, as a Go or Java program in a container would be.
//!
//! `origin ADDRESS...` listens on each address, prints `port N` for each, and serves the tests' contract.

use std::net::TcpListener;
use std::sync::Arc;

use portsplice_tests::origin::{Peer, contract};

#[expect(clippy::print_stdout, reason = "the test reads the ports from here")]
fn main() -> anyhow::Result<()> {
    let mut listening = Vec::new();
    for address in std::env::args().skip(1) {
        let listener = TcpListener::bind(&address)?;
        println!("port {}", listener.local_addr()?.port());
        listening.push(std::thread::spawn(move || {
            for (index, stream) in listener.incoming().flatten().enumerate() {
                std::thread::spawn(move || {
                    // A client that went away is no concern of a server's.
                    let _ = contract::serve(&mut Peer::new(Arc::new(stream), index));
                });
            }
        }));
    }
    println!("ready");
    for thread in listening {
        let _ = thread.join();
    }
    Ok(())
}
