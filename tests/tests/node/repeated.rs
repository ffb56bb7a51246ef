//! No request is carried out twice: one is sent again only where the server cannot have begun it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portsplice_tests::origin::Peer;
use portsplice_tests::over_gateway;
use portsplice_tests::rig::Rig;

/// Answers the first request of each connection; of the second it knows that it came, and then `dies`.
fn dies_at_the_second(
    begun: Arc<AtomicUsize>,
    dies: impl Fn(&mut Peer) + Send + Sync + 'static,
) -> impl Fn(&mut Peer) -> std::io::Result<()> + Send + Sync + 'static {
    move |peer| {
        peer.must_request()?;
        peer.respond("200 OK", "first")?;
        if peer.request()?.is_some() {
            begun.fetch_add(1, Ordering::SeqCst);
            dies(peer);
        }
        Ok(())
    }
}

over_gateway! {
    /// A worker dies at work, in order or not, at once or later: the client is told, whatever its method, and nobody else begins
    /// the work anew.
    fn a_worker_that_dies_at_work(path) {
        for (how, reset) in [("in order", false), ("by a reset", true)] {
            for method in ["GET", "HEAD", "OPTIONS", "DELETE", "PUT", "POST"] {
                let rig = Rig::new(path);
                let begun = Arc::new(AtomicUsize::new(0));
                let origin = rig.serve(dies_at_the_second(begun.clone(), move |peer| {
                    if reset {
                        peer.reset_on_close();
                    }
                }));
                let mut conn = rig.connect();
                assert_eq!(conn.get("/").text(), "first");
                conn.send(method, "/", &[], b"");
                assert_eq!(conn.response().status(), 502, "{method}, {how}");
                assert_eq!(begun.load(Ordering::SeqCst), 1, "{method}, {how}: it was begun twice");
                assert_eq!(origin.accepted(), 1, "{method}, {how}");
            }
        }
    }
}
