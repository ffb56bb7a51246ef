//! `cargo xtask demo`: from a fresh clone to a running system, and what it proves.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool speaks on its standard streams")]

mod client;
mod engine;
mod image;
mod origin;
mod stage;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::ensure;
use clap::{Parser, Subcommand};
use portsplice_testkit::pattern;
use portsplice_tooling::{interrupt, program, workspace};

use self::client::Client;
use self::stage::{ALPHA, BETA, Stage};

/// How a request for ALPHA is signed: with the cluster's secret.
const ROOT: (&str, &str) = ("--root-secret-file", "root");
/// How a request is signed by someone who holds BETA's key only.
const BETAS_KEY: (&str, &str) = ("--key-file", "beta.key");

/// Show a running system: a container, the node, signed requests, and what happened
#[derive(Parser)]
#[command(name = "cargo xtask demo", bin_name = "cargo xtask demo")]
struct Args {
    /// Leave everything running at the end, and say what to try and how to stop it
    #[arg(long)]
    keep: bool,
    /// Use this `portsplice` instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What the demo starts itself as.
#[derive(Subcommand)]
enum Role {
    /// The server in the container
    #[command(hide = true)]
    Origin,
}

fn main() -> ExitCode {
    program::exit(run(Args::parse()))
}

fn run(args: Args) -> anyhow::Result<()> {
    if let Some(Role::Origin) = args.role {
        return origin::serve();
    }
    workspace::enter()?;
    ensure!(
        rustix::process::geteuid().is_root(),
        "the demo enters containers' network namespaces and talks to Docker, which takes root:\n    \
         sudo -E env \"PATH=$PATH\" cargo xtask demo"
    );
    interrupt::watch()?;
    println!("Portsplice lets a request from outside reach a port inside a container,");
    println!("even one with no network of its own, if and only if the request is signed for it.");

    step(1, "Build");
    let binary = stage::build(args.binary.as_deref())?;
    let stage = Stage::set(binary, args.keep)?;
    let client = &stage.client;
    get_page(client)?;
    get_download(client)?;
    get_events(client)?;
    get_echo(client)?;
    be_refused(client)?;
    show_what_is_known(client)?;
    interrupt::check()?;
    if args.keep {
        return stage.keep();
    }
    step(10, "Clean up");
    drop(stage);
    println!("    containers, image, node and files are gone. Run with --keep to try things yourself.");
    Ok(())
}

fn get_page(client: &Client) -> anyhow::Result<()> {
    step(4, "A signed request");
    let lines = client.sign(ALPHA.uuid, "/", ROOT)?;
    println!("    `portsplice sign --uuid {} --port {} ...` gives three headers:", ALPHA.uuid, origin::PORT);
    lines.lines().for_each(|line| println!("      {line}"));
    let answer = client.get("/", &lines)?;
    println!("    GET / -> {}: {}", answer.status, answer.body);
    ensure!(answer.status == 200 && answer.body.contains(ALPHA.name), "that is not ALPHA's page");
    let answer = client.get("/", &client.sign(BETA.uuid, "/", ROOT)?)?;
    println!("    The same address, signed for the other container -> {}: {}", answer.status, answer.body);
    ensure!(answer.status == 200 && answer.body.contains(BETA.name), "that is not BETA's page");
    proves("the node entered each container's namespace; one port serves them all.");
    Ok(())
}

fn get_download(client: &Client) -> anyhow::Result<()> {
    interrupt::check()?;
    step(5, "A large download");
    let lines = client.sign(ALPHA.uuid, "/download", ROOT)?;
    let (hash, length, took) = client.download("/download", &lines)?;
    let speed = length as f64 / 1e6 / took.as_secs_f64();
    println!("    GET /download -> {} MB in {:.2} s ({speed:.0} MB/s)", length / 1_000_000, took.as_secs_f64());
    println!("    sha256 {hash}");
    ensure!(hash == pattern::sha256(origin::DOWNLOAD), "the bytes are not those that the container sent");
    proves("every byte arrived as it was sent.");
    Ok(())
}

fn get_events(client: &Client) -> anyhow::Result<()> {
    interrupt::check()?;
    step(6, "A stream of server-sent events, as language models send them");
    let lines = client.sign(ALPHA.uuid, "/events", ROOT)?;
    let mut words = Vec::new();
    let (start, mut first) = (Instant::now(), None);
    print!("   ");
    client.events("/events", &lines, |word| {
        first.get_or_insert_with(|| start.elapsed());
        print!(" {word}");
        // Only what it looks like on the terminal depends on it.
        let _ = std::io::stdout().flush();
        words.push(word.to_owned());
    })?;
    println!();
    let (first, all) = (first.unwrap_or_default(), start.elapsed());
    println!("    first word after {} ms, last after {} ms", first.as_millis(), all.as_millis());
    ensure!(words.join(" ") == origin::SENTENCE, "words are missing");
    proves("nothing is held back: a token leaves when it arrives.");
    Ok(())
}

fn get_echo(client: &Client) -> anyhow::Result<()> {
    interrupt::check()?;
    step(7, "A WebSocket");
    let lines = client.sign(ALPHA.uuid, "/chat", ROOT)?;
    let said = "Is anybody in there?";
    let heard = client.echo("/chat", &lines, said)?;
    println!("    said \"{said}\", heard \"{heard}\"");
    ensure!(heard == said, "that is not what was said");
    proves("once the container agrees to an upgrade, the connection is a plain stream both ways.");
    Ok(())
}

fn be_refused(client: &Client) -> anyhow::Result<()> {
    interrupt::check()?;
    step(8, "Requests that must not get in");
    let refused = |what: &str, lines: &str| -> anyhow::Result<()> {
        let answer = client.get("/", lines)?;
        println!("    {what} -> {}: {}", answer.status, answer.body);
        ensure!(answer.status == 401, "that must be refused with 401");
        Ok(())
    };
    let good = client.sign(ALPHA.uuid, "/", ROOT)?;
    let routing: String =
        good.lines().filter(|l| !l.contains("X-Arvados-Authorization")).flat_map(|l| [l, "\n"]).collect();
    refused("no credential", &routing)?;
    refused("a credential with one digit changed", &spoil(&good))?;
    refused("a credential for another page", &client.sign(ALPHA.uuid, "/download", ROOT)?)?;
    refused("the other container's key", &client.sign(ALPHA.uuid, "/", BETAS_KEY)?)?;
    ensure!(client.get("/", &good)?.status == 200, "a good credential must pass");
    refused("a credential that was used before", &good)?;
    proves("a signature is good for one request to one container, once.");
    Ok(())
}

fn show_what_is_known(client: &Client) -> anyhow::Result<()> {
    interrupt::check()?;
    step(9, "What the node knows");
    for command in ["ps", "ports"] {
        println!("    portsplice {command}");
        let table = client.tell(command)?;
        table.lines().for_each(|line| println!("      {line}"));
        ensure!(table.contains(ALPHA.name) && table.contains(&origin::PORT.to_string()), "ALPHA's port is missing");
    }
    proves("it found the ports by itself; that they listen does not open them to anybody.");
    Ok(())
}

/// The header lines with the last digit of the signature, which ends them, changed.
fn spoil(lines: &str) -> String {
    let mut text = lines.trim_end().to_owned();
    let digit = text.pop();
    text.push(if digit == Some('0') { '1' } else { '0' });
    text
}

/// Says where we are.
fn step(number: usize, title: &str) {
    println!("\n[{number}/10] {title}");
}

fn proves(what: &str) {
    println!("    => {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spoiling_changes_the_last_digit_only() {
        assert_eq!(spoil("a: b\nc: s=12\n"), "a: b\nc: s=10");
        assert_eq!(spoil("c: s=10\n"), "c: s=11");
    }
}
