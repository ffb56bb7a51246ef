//! The only program of a virtual machine that `cargo xtask vm` boots: its init.
//!
//! It mounts what a program expects, loads the modules that came along, asks the daemon what it makes of this kernel,
//! soaks it, and tells the host on the second serial port; then it ends the machine. The kernel's command line sets its
//! environment.

mod ktls;
mod record;
mod soak;

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use record::{Booted, Check, Record};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::{RebootCommand, finit_module, reboot, uname};

/// Kind, place and options of what is mounted.
const MOUNTS: [(&str, &str, &str); 8] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("tmpfs", "/run", "mode=0755"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("bpf", "/sys/fs/bpf", "mode=0700"),
    ("tracefs", "/sys/kernel/tracing", ""),
];

/// How long `portsplice check` may take. The processor is emulated, and the host may be busy.
const CHECK: Duration = Duration::from_secs(180);

/// Open files of a process, as a service manager would allow them.
const OPEN_FILES: u64 = 65_536;

/// Where the host reads.
const REPORT: &str = "/dev/ttyS1";

type Step = fn() -> anyhow::Result<Vec<Record>>;

const STEPS: [(&str, Step); 6] = [
    ("boot", booted),
    ("check", check),
    ("soak auto", || soak::run("auto")),
    ("soak copy", || soak::run("copy")),
    ("soak tls", || soak::run("tls")),
    ("kernel TLS", ktls::run),
];

#[expect(clippy::print_stderr, reason = "there is nobody else to tell")]
fn main() {
    if std::process::id() != 1 {
        eprintln!("this is the init of a virtual machine: see `cargo xtask vm`");
        std::process::exit(2);
    }
    if let Err(error) = run() {
        eprintln!("guest: {error:#}");
    }
    // Nothing is on a disk; an init that returned would be a panic of the kernel's.
    let _ = reboot(RebootCommand::Restart);
}

fn run() -> anyhow::Result<()> {
    for (kind, place, options) in MOUNTS {
        fs::create_dir_all(place)?;
        let options = std::ffi::CString::new(options)?;
        mount("none", place, kind, MountFlags::empty(), Some(options.as_c_str()))
            .with_context(|| format!("mount {place}"))?;
    }
    // Where both names are used for one folder on every Debian.
    std::os::unix::fs::symlink("/run", "/var/run").context("/var/run")?;
    let files = Some(OPEN_FILES);
    setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files })?;
    portsplice_tests::process::run(Command::new("ip").args(["link", "set", "lo", "up"]), None);
    let mut report = File::options().write(true).open(REPORT).with_context(|| format!("open {REPORT}"))?;
    for (name, step) in STEPS {
        for record in attempt(name, step) {
            tell(&mut report, &record)?;
        }
    }
    tell(&mut report, &Record::Done)
}

fn tell(report: &mut File, record: &Record) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    report.write_all(&line)?;
    Ok(rustix::termios::tcdrain(&*report)?)
}

/// Takes a step on a thread of its own: the tests' helpers panic where something is not as it must be.
fn attempt(name: &str, step: Step) -> Vec<Record> {
    let outcome = std::thread::spawn(step).join().unwrap_or_else(|panic| Err(anyhow!(soak::text_of(&*panic))));
    outcome.unwrap_or_else(|error| vec![Record::Failed { step: name.to_owned(), reason: format!("{error:#}") }])
}

fn booted() -> anyhow::Result<Vec<Record>> {
    const FLAGS: [&str; 5] = ["aes", "pclmulqdq", "avx2", "vaes", "avx512f"];
    let modules = load_modules()?;
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag: &&str| flags.split_whitespace().any(|word| word == *flag);
    let uname = uname();
    Ok(vec![Record::Booted(Booted {
        release: uname.release().to_string_lossy().into_owned(),
        version: uname.version().to_string_lossy().into_owned(),
        btf: fs::exists("/sys/kernel/btf/vmlinux")?,
        cpu: FLAGS.iter().filter(|flag| has(flag)).map(|&flag| flag.to_owned()).collect(),
        modules,
    })])
}

/// Loads what lies in `/modules`, in the order of the names; gives those that cannot be loaded.
fn load_modules() -> anyhow::Result<Vec<String>> {
    let mut files: Vec<_> = fs::read_dir("/modules")?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let mut failed = Vec::new();
    for file in files {
        if let Err(error) = finit_module(&File::open(&file)?, c"", 0) {
            failed.push(format!("{}: {error}", file.display()));
        }
    }
    Ok(failed)
}

/// What the daemon finds out about this host by itself.
fn check() -> anyhow::Result<Vec<Record>> {
    let (out, err) = (File::create("/tmp/check.out")?, File::create("/tmp/check.err")?);
    let mut child = Command::new(portsplice_tests::node::binary())
        .args(["check"])
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()?;
    let end = Instant::now() + CHECK;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if Instant::now() > end => break None,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if status.is_none() {
        child.kill()?;
        child.wait()?;
    }
    let text = fs::read_to_string("/tmp/check.out")? + &fs::read_to_string("/tmp/check.err")?;
    Ok(vec![Record::Check(Check { code: status.and_then(|status| status.code()), text })])
}
