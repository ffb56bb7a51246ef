//! `zoo MANNER ADDRESS [SEND-BUFFER]`: a server that writes in one manner; see `portsplice_tests::zoo`.

use anyhow::Context;

use portsplice_tests::zoo::{ServerVariant, run};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let manner = args.next().as_deref().and_then(ServerVariant::parse).context("which manner?")?;
    let address = args.next().context("which address?")?;
    let send_buffer = args.next().map(|bytes| bytes.parse()).transpose().context("a number of bytes")?;
    run(manner, &address, send_buffer)
}
