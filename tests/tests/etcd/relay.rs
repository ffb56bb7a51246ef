//! What lies between a client and etcd, and can be cut, or frozen as a network that swallows packets is.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Bytes pass.
    Open,
    /// Connections are closed, and new ones too.
    Cut,
    /// Those connections that were made up to this number stay, and nothing passes on them.
    Frozen(usize),
}

/// A relay on a port of its own.
pub(crate) struct Relay {
    pub(crate) url: String,
    mode: Arc<watch::Sender<Mode>>,
    made: Arc<std::sync::atomic::AtomicUsize>,
    task: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let mode = Arc::new(watch::Sender::new(Mode::Open));
        let made = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (modes, numbers) = (Arc::clone(&mode), Arc::clone(&made));
        let task = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                let number = 1 + numbers.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tokio::spawn(relay(client, server, number, modes.subscribe()));
            }
        });
        Self { url, mode, made, task }
    }

    pub(crate) fn open(&self) {
        self.mode.send_replace(Mode::Open);
    }

    pub(crate) fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Freezes the connections that there are; new ones pass.
    pub(crate) fn freeze(&self) {
        self.mode.send_replace(Mode::Frozen(self.made.load(std::sync::atomic::Ordering::SeqCst)));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(mut client: TcpStream, server: SocketAddr, number: usize, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let frozen = |mode: &Mode| matches!(mode, Mode::Frozen(up_to) if number <= *up_to);
    let stop = async {
        loop {
            match *mode.borrow_and_update() {
                Mode::Cut => return false,
                now if frozen(&now) => return true,
                _ => {}
            }
            if mode.changed().await.is_err() {
                return false;
            }
        }
    };
    let freeze = tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => false,
        freeze = stop => freeze,
    };
    if freeze {
        // Both stay open and nobody reads.
        let _ = mode.wait_for(|mode| *mode == Mode::Cut).await;
    }
}
