//! A headless Chromium, spoken to over the DevTools protocol through two pipes; no library, no port.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::output;

/// A browser takes its time on a machine that does much else.
const LONG: Duration = Duration::from_secs(60);

/// With the descriptors 3 and 4 as the pipes.
const START: &str = "exec chromium --headless --remote-debugging-pipe --no-sandbox --disable-gpu --disable-quic \
    --no-first-run --disable-background-networking --disable-component-update --disable-sync --disable-dev-shm-usage \
    --disable-extensions --user-data-dir=\"$0\" about:blank 3<\"$1\" 4>\"$2\" >/dev/null 2>\"$3\"";

/// A browser with one page; killed when dropped.
pub struct Browser {
    child: Child,
    to: File,
    from: Receiver<Value>,
    /// What it said by itself so far.
    pub events: Vec<Value>,
    session: Option<String>,
    number: u64,
    directory: TempDir,
}

impl Browser {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        output(Command::new("mkfifo").args([path("to"), path("from")]));
        let mut command = Command::new("sh");
        command.args(["-c", START]).args(["profile", "to", "from", "errors"].map(path)).stdin(Stdio::null());
        let child = command.env("HOME", directory.path()).spawn().unwrap();
        let to = File::options().write(true).open(path("to")).unwrap();
        let mut reader = BufReader::new(File::open(path("from")).unwrap());
        let (sender, from) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while reader.read_until(0, &mut message).is_ok_and(|length| length > 0) {
                message.pop();
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut this = Self { child, to, from, events: Vec::new(), session: None, number: 0, directory };
        let page = this.call("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        let attached = this.call("Target.attachToTarget", json!({ "targetId": page, "flatten": true }));
        this.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            this.call(&format!("{domain}.enable"), json!({}));
        }
        this
    }

    /// A command of the protocol; its result.
    #[track_caller]
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut message = json!({ "id": self.number, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let answer = self.from.recv_timeout(LONG).unwrap_or_else(|_| {
                let said = std::fs::read_to_string(self.directory.path().join("errors")).unwrap_or_default();
                panic!("no answer to {method} of the browser: {said}")
            });
            if answer["id"] == self.number {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    #[track_caller]
    pub fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({ "url": url }));
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
    }

    /// The value of an expression in the page.
    #[track_caller]
    pub fn eval(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", parameters);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    #[track_caller]
    pub fn text(&mut self, selector: &str) -> String {
        let text = self.eval(&format!("document.querySelector({selector:?})?.innerText ?? ''"));
        text.as_str().unwrap().to_owned()
    }

    /// Waits until an expression in the page is true.
    #[track_caller]
    pub fn wait_for(&mut self, expression: &str) {
        let started = Instant::now();
        while self.eval(&format!("Boolean({expression})")) != true {
            if started.elapsed() > LONG {
                let shown = self.text("body");
                panic!("never true: {expression}\n{shown}\n{:?}", self.complaints());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the text of an element has these words.
    #[track_caller]
    pub fn wait_for_text(&mut self, selector: &str, words: &str) {
        self.wait_for(&format!("document.querySelector({selector:?})?.innerText.includes({words:?})"));
    }

    /// Presses a key, such as `Tab`.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            " " => (32, " "),
            other => panic!("{other}"),
        };
        let parameters = json!({ "type": "keyDown", "key": key, "windowsVirtualKeyCode": code, "text": text });
        self.call("Input.dispatchKeyEvent", parameters);
        self.call("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key, "windowsVirtualKeyCode": code }));
    }

    /// Types into what has the focus.
    pub fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// A picture of the upper 1600 pixels of the page, so many wide, `light` or `dark`.
    pub fn picture(&mut self, file: &Path, width: u32, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
        let size = json!({ "width": width, "height": 1600, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let taken = self.call("Page.captureScreenshot", json!({}));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let encoded = taken["data"].as_str().unwrap();
        let engine = &base64::engine::general_purpose::STANDARD;
        std::fs::write(file, base64::Engine::decode(engine, encoded).unwrap()).unwrap();
    }

    /// Errors and warnings in the page, those of its policy among them; not that an answer had a status above 399.
    pub fn complaints(&mut self) -> Vec<String> {
        self.eval("0");
        let said = |event: &Value| {
            let (method, parameters) = (event["method"].as_str()?, &event["params"]);
            let complains = match method {
                "Runtime.exceptionThrown" => true,
                "Runtime.consoleAPICalled" => ["error", "warning"].contains(&parameters["type"].as_str()?),
                "Log.entryAdded" => {
                    let entry = &parameters["entry"];
                    ["error", "warning"].contains(&entry["level"].as_str()?) && entry["source"] != "network"
                }
                _ => false,
            };
            complains.then(|| parameters.to_string())
        };
        self.events.iter().filter_map(said).collect()
    }

    /// Every URL that the page asked for.
    pub fn asked(&mut self) -> Vec<String> {
        self.eval("0");
        let asked = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        asked.map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its children go with it: they have lost their pipe.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
