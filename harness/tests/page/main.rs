//! `report.html` in a real browser, made from the folder of a real run (`handover/`, of `scenarios/handover.toml`).

#![allow(clippy::unwrap_used)]

mod browser;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use browser::Browser;
use serde_json::{Value, json};

const WIDE: (u32, u32) = (1280, 900);
const PHONE: (u32, u32) = (390, 844);

/// A copy of the run's folder, without what `without` names, with its page.
fn made(without: &[&str], change: impl FnOnce(&Path)) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/handover");
    for entry in fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        if !without.iter().any(|name| entry.file_name() == *name) {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    change(folder.path());
    let made = Command::new(env!("CARGO_BIN_EXE_harness")).arg("report").arg(folder.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let page = folder.path().join("report.html");
    assert_eq!(String::from_utf8_lossy(&made.stdout).trim(), page.display().to_string());
    (folder, page)
}

fn trace(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("events.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const ARROWS: &str = "document.querySelectorAll('#messages .arrow').length";

#[test]
fn a_run_is_shown_and_a_message_says_what_it_said() {
    let (folder, page) = made(&[], |_| ());
    let mut browser = Browser::start();
    browser.open(&page, WIDE, "light");
    let trace = trace(folder.path());
    let report: Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("report.json")).unwrap()).unwrap();

    assert_eq!(browser.value("document.querySelector('#verdict').textContent"), report["verdict"]);
    let expectations = report["expectations"].as_array().unwrap().len();
    assert_eq!(browser.value("document.querySelectorAll('.expect tbody tr').length"), expectations);

    // Every message once, and keep-alives when they are asked for.
    let alive = |event: &&Value| event["message"].as_str().is_some_and(|name| name.contains("KeepAlive"));
    let messages = trace.iter().filter(|event| event["what"] == "sent" || event["what"] == "dns-answer");
    let hidden = messages.clone().filter(alive).count();
    let all = messages.count();
    assert!(hidden > 0 && all > 20, "the run has both");
    assert_eq!(browser.value(ARROWS), all - hidden);
    browser.click(".filters input");
    assert_eq!(browser.value(ARROWS), all);
    assert_eq!(browser.value("document.querySelectorAll('.arrow.lost').length"), 0, "none was lost");

    // A click shows what a message said, and the clauses.
    browser.value("document.querySelector('[aria-label*=\"Route Direction\"]').id = 'wanted'");
    browser.click("#wanted");
    let said = browser.value("document.querySelector('.more').textContent");
    let sent = trace.iter().find(|event| event["message"] == "RouteDirection").unwrap();
    for part in ["/peer", "/peer_vip", "/route/address", "/route/mode"] {
        let value = sent["fields"].pointer(part).and_then(Value::as_str).unwrap();
        assert!(said.as_str().unwrap().contains(value), "{part}: {said}");
    }
    for part in ["Fig. 4.3", "Clauses"] {
        assert!(said.as_str().unwrap().contains(part), "{part}: {said}");
    }
    assert_eq!(browser.value("document.querySelectorAll('.more li strong').length > 0"), true);
    browser.click("#wanted");
    assert_eq!(browser.value("document.querySelectorAll('.more').length"), 0, "a second click closes it");
    assert_eq!(browser.complaints, Vec::<String>::new());
}

/// Topology, plots and ladder follow one clock.
#[test]
fn all_parts_share_one_clock() {
    let (_folder, page) = made(&[], |_| ());
    let mut browser = Browser::start();
    browser.open(&page, WIDE, "dark");
    browser.until("document.querySelectorAll('.uplot').length === 3");
    let painted = "[...document.querySelectorAll('.uplot canvas')].every(one => \
        one.getContext('2d').getImageData(0, 0, one.width, one.height).data.some(byte => byte))";
    assert_eq!(browser.value(painted), true, "every plot is drawn");

    let off = "[...document.querySelectorAll('.map .off-text')].map(one => one.textContent).join()";
    browser.click("#marks button:nth-of-type(1)");
    browser.until(&format!("{off}.startsWith('wlan1')"));
    browser.click("#marks button:nth-of-type(3)");
    browser.until(&format!("{off}.startsWith('wlan0')"));
    assert_eq!(browser.value("document.querySelector('.ways strong').textContent"), "RS-N");

    // Dragging in one plot narrows the window of all, and the ladder to what was sent then.
    let before = browser.value(ARROWS);
    let plot = browser.value(
        "(() => { const one = document.querySelector('.u-over'); one.scrollIntoView({ block: 'center' }); \
         const box = one.getBoundingClientRect(); return [box.x, box.width, box.y + 10]; })()",
    );
    let at = |share: f64| json!(plot[0].as_f64().unwrap() + plot[1].as_f64().unwrap() * share);
    browser.mouse("mouseMoved", &at(0.4), &plot[2]);
    browser.mouse("mousePressed", &at(0.4), &plot[2]);
    browser.mouse("mouseMoved", &at(0.5), &plot[2]);
    browser.mouse("mouseReleased", &at(0.5), &plot[2]);
    browser.until(&format!("{ARROWS} < {before} && {ARROWS} > 0"));
    let windows = browser.value("PLOTS.map(({ u }) => [u.scales.x.min, u.scales.x.max].join()).join(' ')");
    let windows: Vec<&str> = windows.as_str().unwrap().split(' ').collect();
    assert!(windows.len() == 3 && windows.iter().all(|window| *window == windows[0]), "{windows:?}");
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn it_is_readable_on_a_phone_in_the_dark_and_on_paper() {
    let (_folder, page) = made(&[], |_| ());
    let mut browser = Browser::start();
    browser.open(&page, PHONE, "dark");
    assert_eq!(browser.value("document.documentElement.scrollWidth"), 390, "nothing hangs over the edge");
    // WCAG's contrast of the text with its background.
    let contrast = "(() => { const light = text => { const [r, g, b] = text.match(/\\d+/g).map(n => n / 255) \
        .map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b + .05; }; \
        const back = light(getComputedStyle(document.body).backgroundColor); \
        return Math.min(...['body', '.quiet', '.held', 'a[href=\"#time\"]'].map(name => { \
        const ink = light(getComputedStyle(document.querySelector(name)).color); return Math.max(ink / back, back / ink); })); })()";
    for scheme in ["dark", "light"] {
        browser.open(&page, PHONE, scheme);
        assert!(browser.value(contrast).as_f64().unwrap() >= 4.5, "contrast in {scheme}");
    }
    browser.open(&page, WIDE, "light");
    assert_eq!(browser.value("document.documentElement.scrollWidth"), 1280);
    let printed =
        browser.call("Page.printToPDF", json!({ "printBackground": true, "preferCSSPageSize": true }));
    assert!(printed["data"].as_str().unwrap().starts_with("JVBERi"), "a PDF");
    browser.call("Emulation.setEmulatedMedia", json!({ "media": "print" }));
    assert_eq!(browser.value("getComputedStyle(document.querySelector('#clock')).display"), "none");
    assert_eq!(browser.complaints, Vec::<String>::new());
}

/// A run of the simulator leaves no captures, no status and no environment: each part that has nothing says so in a line.
#[test]
fn parts_without_data_say_so() {
    let (_folder, page) = made(&["series.json", "status.json", "env.json", "scenario.toml"], |folder| {
        let file = folder.join("report.json");
        let mut report: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        report["relay_table"] = json!({});
        fs::write(file, report.to_string()).unwrap();
    });
    let mut browser = Browser::start();
    browser.open(&page, WIDE, "light");
    let text = browser.value("document.body.innerText");
    for line in ["no packet captures", "No relay was in this run", "environment was not recorded"] {
        assert!(text.as_str().unwrap().contains(line), "{line}: {text}");
    }
    assert_eq!(browser.value("document.querySelectorAll('.uplot').length"), 1, "the paths");
    assert_eq!(browser.complaints, Vec::<String>::new());
}

/// A scenario in rounds, as the simulator runs it.
const ROUNDS: &str = r#"
schema = 1
name   = "rounds"
about  = "A ping over two links"
seed   = 5
[link.l]
both = { delay = "2ms", jitter = "0.4ms" }
[node]
a = { role = "general", at = "internet", link = "l" }
b = { role = "general", at = "internet", name = "b.test" }
[[flow]]
id   = "echo"
ping = { from = "a", to = "b.test", count = 5, interval = "5ms" }
[matrix]
rounds = 4
show   = ["flow.echo.rtt_avg_ms", "flow.echo.rtt_max_ms"]
[[matrix.cell]]
name = "near"
[[matrix.cell]]
name  = "far"
set   = { "link.l.both.delay" = "9ms" }
[[matrix.table]]
title   = "Far and near"
columns = ["cell", "here", "verdict"]
rows    = [["near", "=cell.near.mean", "=cell.near.mean < 6"], ["far", "=cell.far.mean", "=cell.far.mean < 6"]]
"#;

#[test]
fn many_rounds_are_shown_with_their_means() {
    let folder = tempfile::tempdir().unwrap();
    let (file, run) = (folder.path().join("rounds.toml"), folder.path().join("runs"));
    fs::write(&file, ROUNDS).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
    command.arg("run").arg(&file).args(["--engine", "sim", "--quiet", "--out"]).arg(&run);
    let made = command.env("XDG_STATE_HOME", folder.path().join("state")).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let page = fs::read_dir(&run).unwrap().next().unwrap().unwrap().path().join("report.html");
    let mut browser = Browser::start();
    for (size, scheme) in [(WIDE, "light"), (PHONE, "dark")] {
        browser.open(&page, size, scheme);
        assert_eq!(
            browser.value("document.querySelectorAll('#rounds .uplot').length"),
            2,
            "one plot for each quantity"
        );
        let drawn = "SAMPLED.every(({ u }) => u.ctx.getImageData(0, 0, u.ctx.canvas.width, u.ctx.canvas.height).data.some(byte => byte > 0))";
        assert_eq!(browser.value(drawn), true);
        assert_eq!(
            browser.value("document.documentElement.scrollWidth"),
            size.0,
            "nothing hangs over the edge"
        );
    }
    assert_eq!(browser.value("SAMPLED[0].u.data[0].length"), 8, "a point for each round of each cell");
    assert_eq!(browser.value("document.querySelector('#tables .held').textContent"), "holds");
    assert_eq!(browser.value("document.querySelector('#tables .failed').textContent"), "FAILS");
    assert_eq!(
        browser.value("document.querySelector('#messages') === null"),
        true,
        "each round has its own page for that"
    );
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn thousands_of_messages_are_made_as_they_are_scrolled_to() {
    let (_folder, page) = made(&[], |folder| {
        let start = trace(folder)[0]["t"].as_u64().unwrap();
        let line = |n: u64| {
            let (t, seq) = (start + n * 1_000_000, n + 1);
            json!({ "t": t, "node": "mn", "what": "sent", "message": "TunnelRequest", "seq": seq, "to": "203.0.113.7:4330" })
        };
        let lines: Vec<String> = (0..6000).map(|n| line(n).to_string()).collect();
        fs::write(folder.join("events.jsonl"), lines.join("\n")).unwrap();
    });
    let mut browser = Browser::start();
    browser.open(&page, WIDE, "light");
    assert!(browser.value(ARROWS).as_u64().unwrap() <= 1000);
    assert_eq!(browser.value("document.querySelector('[role=status]').textContent"), "6000 of 6000 messages");
    browser.value("clock.set(SPAN[1])");
    browser.until("document.querySelector('#m5999') !== null");
    assert_eq!(browser.complaints, Vec::<String>::new());
}

/// A program's output may hold anything; on the page it is text.
#[test]
fn what_failed_is_shown_and_texts_stay_texts() {
    let nasty = "</script><img src=x onerror=\"console.error('run')\">";
    let (_folder, page) = made(&[], |folder| {
        let file = folder.join("report.json");
        let mut report: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        report["verdict"] = json!("failed");
        for field in ["about", "scenario"] {
            report[field] = json!(nasty);
        }
        report["notes"] = json!([nasty]);
        report["problems"] = json!([nasty]);
        report["expectations"][0]["held"] = json!(false);
        report["expectations"][0]["found"] = json!([nasty]);
        report["quantities"]["flow.x.stdout"] = json!(nasty);
        report["tables"] = json!([{ "title": nasty, "columns": ["here", "thesis"], "rows": [[nasty, 45.46]], "notes": [nasty] }]);
        fs::write(file, report.to_string()).unwrap();
    });
    let mut browser = Browser::start();
    browser.open(&page, WIDE, "light");
    assert_eq!(browser.value("document.querySelectorAll('img').length"), 0);
    assert_eq!(browser.value("document.querySelector('#about').textContent"), nasty);
    assert_eq!(browser.value("document.querySelector('.expect .failed').textContent"), "FAILED");
    let open =
        "document.querySelector('.expect details').open && document.querySelector('.expect pre').textContent";
    assert_eq!(browser.value(open), nasty, "what was found is shown at once");
    assert_eq!(browser.value("document.querySelector('#tables td.number').textContent"), "45.46");
    assert_eq!(browser.complaints, Vec::<String>::new());
}
