//! One node: the binary, started on free ports, with its log kept for failures.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use crate::wait::until;

/// A start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A drain, with the default `mainstem.drain.ms` of 10 s, on a busy machine.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const HTTP_LIMIT: Duration = Duration::from_secs(10);
/// Lines of the log that a failure shows.
const LOG_LINES: usize = 60;

const LISTENERS: [(&str, &str); 4] = [
    ("kafka", "--kafka-listen"),
    ("mqtt", "--mqtt-listen"),
    ("mqtt_ws", "--mqtt-ws-listen"),
    ("admin", "--admin-listen"),
];

/// How a node is started.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// `--set key=value`.
    pub settings: Vec<(String, String)>,
    /// Where its data is; without it a temporary directory.
    pub data_dir: Option<PathBuf>,
    /// A program that runs it, with its arguments. It must become the node or stay out of the way:
    /// the child's process id is taken for the node's.
    pub runner: Vec<String>,
}

/// A node that runs, until it is dropped.
#[derive(Debug)]
pub struct Node {
    /// Holds the log and, unless the options say otherwise, the data.
    directory: tempfile::TempDir,
    options: NodeOptions,
    child: Option<Child>,
    addresses: BTreeMap<String, SocketAddr>,
    starts: u32,
}

/// A process that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it printed to standard error.
    pub stderr: String,
}

/// The binary under test: `$BROKER_BINARY`, else the one that `make build` makes.
///
/// # Panics
/// If there is none.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("BROKER_BINARY") {
        return PathBuf::from(path);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests lie in the workspace");
    let printed = Command::new("make")
        .args(["-s", "print-binary"])
        .current_dir(root)
        .output()
        .expect("make -s print-binary");
    let path = PathBuf::from(String::from_utf8_lossy(&printed.stdout).trim());
    assert!(
        path.exists(),
        "no binary at {}: run `make build` first",
        path.display()
    );
    path
}

/// A command of the binary without the environment's `MAINSTEM_…`, which would configure it.
fn command() -> Command {
    without_settings(Command::new(binary()))
}

/// The same, run by a program.
fn command_by(runner: &[String]) -> Command {
    match runner.split_first() {
        None => command(),
        Some((program, arguments)) => {
            let mut command = without_settings(Command::new(program));
            command.args(arguments).arg(binary());
            command
        }
    }
}

fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MAINSTEM_")) {
        command.env_remove(name);
    }
    command
}

/// Runs the binary with `arguments` and `environment`, and waits for its end.
///
/// # Panics
/// If it does not end.
pub fn run_to_end(arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let mut command = command();
    command.args(arguments).envs(environment.iter().copied());
    to_end(command)
}

/// The same, run as [`NodeOptions::runner`] tells.
///
/// # Panics
/// If it does not end.
pub fn run_to_end_by(runner: &[String], arguments: &[&str]) -> Ended {
    let mut command = command_by(runner);
    command.args(arguments);
    to_end(command)
}

fn to_end(mut command: Command) -> Ended {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (out, err) = (directory.path().join("out"), directory.path().join("err"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(File::create(&out).expect("a file for its output"))
        .stderr(File::create(&err).expect("a file for its errors"))
        .spawn()
        .expect("the binary starts");
    let ended = crate::wait::within(START_LIMIT, || {
        child.try_wait().expect("its state").is_some()
    });
    if !ended {
        let _ = child.kill();
        let log = std::fs::read_to_string(&err).unwrap_or_default();
        panic!("{command:?} did not end; it printed:\n{log}");
    }
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    Ended {
        status: child.wait().expect("its end"),
        stdout: read(&out),
        stderr: read(&err),
    }
}

/// `GET path`: the status and the body.
///
/// # Errors
/// The connection fails or the answer is no HTTP.
pub fn http_get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, HTTP_LIMIT)?;
    stream.set_read_timeout(Some(HTTP_LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let invalid = || std::io::Error::other(format!("no HTTP: {answer}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(invalid)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|text| text.parse().ok())
        .ok_or_else(invalid)?;
    Ok((status, body.to_owned()))
}

// === impl Ended ===

impl Ended {
    /// Everything printed.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

// === impl Node ===

impl Node {
    /// Starts a node on free ports in a directory of its own.
    pub fn start() -> Self {
        Self::start_with(NodeOptions::default())
    }

    /// Starts a node on free ports with these settings.
    pub fn start_set(settings: &[(&str, &str)]) -> Self {
        let settings = settings
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Self::start_with(NodeOptions {
            settings,
            ..NodeOptions::default()
        })
    }

    /// Starts a node on free ports.
    ///
    /// # Panics
    /// If it does not get ready; its log is printed.
    pub fn start_with(options: NodeOptions) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut node = Self {
            directory,
            options,
            child: None,
            addresses: BTreeMap::new(),
            starts: 0,
        };
        node.start_again();
        node
    }

    /// Starts the node again, after [`Node::stop`] or [`Node::kill`]: the same data, the same ports.
    ///
    /// # Panics
    /// If it runs already or does not get ready.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        self.starts += 1;
        let banner = self.banner_path();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("its log");
        let mut command = command_by(&self.options.runner);
        command.args(self.arguments());
        command.stdin(Stdio::null()).stderr(log);
        command.stdout(File::create(&banner).expect("a file for its banner"));
        self.child = Some(command.spawn().expect("the binary starts"));
        let admin = until(START_LIMIT, "the banner of the node", || {
            self.admin_address()
        });
        let (_, status) = http_get(admin, "/status").expect("GET /status");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        for (name, _) in LISTENERS {
            let text = status["listeners"][name]
                .as_str()
                .expect("an address in /status");
            self.addresses
                .insert(name.to_owned(), text.parse().expect("an address"));
        }
        until(START_LIMIT, "/readyz answers 200", || {
            http_get(admin, "/readyz")
                .ok()
                .filter(|(code, _)| *code == 200)
        });
    }

    /// The command line of this node: port 0 at the first start, the same ports later.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["serve".to_owned(), "--data-dir".to_owned()];
        arguments.push(self.data_dir().display().to_string());
        for (name, flag) in LISTENERS {
            let address = self
                .addresses
                .get(name)
                .map_or("127.0.0.1:0".to_owned(), ToString::to_string);
            arguments.extend([flag.to_owned(), address]);
        }
        for (key, value) in &self.options.settings {
            arguments.extend(["--set".to_owned(), format!("{key}={value}")]);
        }
        arguments
    }

    fn admin_address(&mut self) -> Option<SocketAddr> {
        let child = self.child.as_mut().expect("it was started");
        if let Some(status) = child.try_wait().expect("its state") {
            self.child = None;
            panic!("the node ended with {status}");
        }
        let banner = std::fs::read_to_string(self.banner_path()).ok()?;
        let line = banner
            .lines()
            .find(|line| line.trim_start().starts_with("Admin"))?;
        let address = line.split("http://").nth(1)?.split('/').next()?;
        address.parse().ok()
    }

    /// SIGTERM: the node must drain and exit 0.
    ///
    /// # Panics
    /// If it does not.
    pub fn stop(&mut self) {
        let status = self.terminate();
        assert!(status.success(), "{status} after SIGTERM");
    }

    /// SIGTERM, and how it ended.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        let mut child = self.child.take().expect("it runs");
        let ended = crate::wait::within(STOP_LIMIT, || {
            child.try_wait().expect("its state").is_some()
        });
        if !ended {
            let _ = child.kill();
            panic!("no end within {STOP_LIMIT:?} of SIGTERM");
        }
        child.wait().expect("its end")
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("its end");
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.pid().to_string()])
            .status()
            .expect("kill");
        assert!(status.success(), "kill -{name}: {status}");
    }

    /// `mainstem log verify` of its data.
    pub fn verify(&self) -> Ended {
        let data = self.data_dir();
        run_to_end(&["log", "verify", data.to_str().expect("a path")], &[])
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Fails if the process has ended.
    ///
    /// # Panics
    /// Then.
    pub fn assert_up(&mut self) {
        let child = self.child.as_mut().expect("it runs");
        let ended = child.try_wait().expect("its state");
        assert!(ended.is_none(), "the node ended: {ended:?}");
    }

    /// Where Kafka clients connect.
    pub fn kafka(&self) -> SocketAddr {
        self.addresses["kafka"]
    }

    /// Where MQTT clients connect.
    pub fn mqtt(&self) -> SocketAddr {
        self.addresses["mqtt"]
    }

    /// Where MQTT clients connect over WebSocket.
    pub fn mqtt_ws(&self) -> SocketAddr {
        self.addresses["mqtt_ws"]
    }

    /// Where the admin endpoints are.
    pub fn admin(&self) -> SocketAddr {
        self.addresses["admin"]
    }

    /// Where its data is.
    pub fn data_dir(&self) -> PathBuf {
        self.options
            .data_dir
            .clone()
            .unwrap_or_else(|| self.directory.path().join("data"))
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("node.log")
    }

    fn banner_path(&self) -> PathBuf {
        self.directory
            .path()
            .join(format!("banner-{}.txt", self.starts))
    }

    /// What it printed at the last start.
    pub fn banner(&self) -> String {
        std::fs::read_to_string(self.banner_path()).unwrap_or_default()
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The largest resident memory of the process so far, in bytes, as the kernel counts it.
    ///
    /// # Panics
    /// If /proc does not tell.
    pub fn peak_memory_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("/proc");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .expect("VmHWM");
        let kib = line
            .split_whitespace()
            .nth(1)
            .and_then(|text| text.parse::<u64>().ok());
        kib.expect("a number of KiB") * 1024
    }

    /// The sum of a metric over its series.
    ///
    /// # Panics
    /// If the endpoint does not answer.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, body) = http_get(self.admin(), "/metrics").expect("GET /metrics");
        let series = body.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        series
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES);
            eprintln!(
                "--- the end of the node's log ---\n{}",
                lines[from..].join("\n")
            );
        }
        self.kill();
    }
}
