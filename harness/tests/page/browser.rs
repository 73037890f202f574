//! A headless Chromium, driven over a pipe by the DevTools protocol: messages are JSON texts that end with a zero byte.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe;
use serde_json::{Value, json};

/// As Debian, Ubuntu and Google call it.
const PROGRAMS: &[&str] = &["chromium", "chromium-browser", "google-chrome"];
/// Chromium never takes so long for an answer.
const PATIENCE_MS: u16 = 60_000;

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    to: File,
    from: File,
    unread: Vec<u8>,
    session: Option<String>,
    last: u64,
    loads: u32,
    /// Errors of the page, and requests for anything that is no file.
    pub(crate) complaints: Vec<String>,
    _home: tempfile::TempDir,
}

impl Browser {
    /// Starts a browser with a profile of its own.
    pub(crate) fn start() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let program = PROGRAMS
            .iter()
            .find(|program| {
                Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success())
            })
            .expect("Chromium is installed: the package `chromium`");
        let (their_in, to) = pipe().expect("a pipe");
        let (from, their_out) = pipe().expect("a pipe");
        let mut command = Command::new(program);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
        ]);
        command.arg(format!("--user-data-dir={}", home.path().display())).arg("about:blank");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let ends = [their_in.as_raw_fd(), their_out.as_raw_fd()];
        // SAFETY: dup2 and fcntl may be called between fork and exec; the descriptors live until the child has started.
        unsafe {
            command.pre_exec(move || {
                // Out of the way first: one of them may be 3 or 4 itself.
                let [a, b] = ends.map(|fd| libc::fcntl(fd, libc::F_DUPFD, 10));
                for (fd, wanted) in [(a, 3), (b, 4)] {
                    if fd < 0 || libc::dup2(fd, wanted) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                    libc::close(fd);
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("Chromium starts");
        drop((their_in, their_out));
        let file = |fd: OwnedFd| File::from(fd);
        let mut browser = Self {
            child,
            to: file(to),
            from: file(from),
            unread: Vec::new(),
            session: None,
            last: 0,
            loads: 0,
            complaints: Vec::new(),
            _home: home,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached =
            browser.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Opens `file` on a screen of `width` × `height`, and waits until the page says that it is ready.
    pub(crate) fn open(&mut self, file: &Path, (width, height): (u32, u32), scheme: &str) {
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 640 }),
        );
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
        );
        let loads = self.loads;
        self.call("Page.navigate", json!({ "url": format!("file://{}", file.display()) }));
        while self.loads == loads {
            let event = self.read();
            self.note(&event);
        }
        self.until("document.documentElement?.dataset.ready === 'yes'");
    }

    /// What the expression is worth on the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", parameters);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until the condition holds on the page.
    pub(crate) fn until(&mut self, condition: &str) {
        let held = self.value(&format!(
            "new Promise(done => {{ const end = performance.now() + 20000; const look = () => {{ \
             if ({condition}) done(true); else if (performance.now() > end) done(false); else setTimeout(look, 20); }}; look(); }})"
        ));
        assert_eq!(held, true, "{condition}; the page complained of {:?}", self.complaints);
    }

    /// Scrolls to what the selector finds and clicks into the middle of it with the mouse.
    pub(crate) fn click(&mut self, selector: &str) {
        let place = self.value(&format!(
            "(() => {{ const one = document.querySelector({selector:?}); one.scrollIntoView({{ block: 'center' }}); \
             const box = one.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        ));
        self.mouse("mousePressed", &place[0], &place[1]);
        self.mouse("mouseReleased", &place[0], &place[1]);
    }

    /// Moves or presses the mouse at a place of the screen.
    pub(crate) fn mouse(&mut self, what: &str, x: &Value, y: &Value) {
        let button = if what == "mouseMoved" { "none" } else { "left" };
        self.call(
            "Input.dispatchMouseEvent",
            json!({ "type": what, "x": x, "y": y, "button": button, "clickCount": 1 }),
        );
    }

    /// Calls a method of the protocol and returns its result.
    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all((message.to_string() + "\0").as_bytes()).expect("Chromium listens");
        loop {
            let mut answer = self.read();
            if answer["id"] == self.last {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let told = &event["params"];
        self.loads += u32::from(event["method"] == "Page.loadEventFired");
        let wrong = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => told["type"] == "error" || told["type"] == "warning",
            Some("Log.entryAdded") => told["entry"]["level"] == "error",
            Some("Network.requestWillBeSent") => {
                let url = told["request"]["url"].as_str().unwrap_or_default();
                !["file:", "about:", "data:"].iter().any(|scheme| url.starts_with(scheme))
            }
            _ => false,
        };
        if wrong {
            self.complaints.push(told.to_string());
        }
    }

    fn read(&mut self) -> Value {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == 0) {
                let message: Vec<u8> = self.unread.drain(..=end).collect();
                return serde_json::from_slice(&message[..end]).expect("JSON");
            }
            let mut ready = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
            let count = poll(&mut ready, PollTimeout::from(PATIENCE_MS)).expect("poll");
            assert!(count > 0, "Chromium does not answer");
            let mut bytes = [0; 65536];
            let n = self.from.read(&mut bytes).expect("Chromium's pipe");
            assert!(n > 0, "Chromium ended");
            self.unread.extend_from_slice(&bytes[..n]);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It has nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
