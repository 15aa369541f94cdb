use std::path::PathBuf;
use std::time::Duration;

use tokenbroker::standin::Fault;

use crate::exchange::OAuth;
use crate::support::{ADMIN_KEY, Action, Broker, Browser, Upstream, has, static_route, write};

/// Pictures for people, below `target`.
fn picture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dashboard").join(name)
}

fn page(broker: &Broker) -> Option<Browser> {
    if !has("chromium") {
        return None;
    }
    let mut browser = Browser::start();
    browser.open(&format!("http://{}/", broker.address("admin")));
    browser.wait_for("document.body?.dataset.link === 'live'");
    Some(browser)
}

/// The page is still without a complaint, and asked nobody but its broker.
fn was_quiet(browser: &mut Browser, broker: &Broker) {
    assert_eq!(browser.complaints(), Vec::<String>::new());
    let own = format!("http://{}/", broker.address("admin"));
    let asked = browser.asked();
    assert!(asked.len() > 3 && asked.iter().all(|url| url.starts_with(&own)), "{asked:?}");
}

#[test]
fn a_token_is_renewed_by_keyboard_alone_and_a_failure_shows_without_a_reload() {
    let oauth = OAuth::start(Duration::from_secs(3600));
    let broker = Broker::start_in(oauth.directory(), &format!("inspector = true\n{}", oauth.config("", "")), |_| {});
    broker.wait_for_state("api", "valid");
    let Some(mut browser) = page(&broker) else { return };
    browser.wait_for_text("#tokens", "✓ valid");
    browser.wait_for_text("#tokens", "59 min");
    let first = broker.token("api")["fingerprint"].clone();
    // The skip link, the key, the button.
    let focus = |browser: &mut Browser| browser.eval("document.activeElement.id || document.activeElement.ariaLabel");
    browser.press("Tab");
    assert_eq!(browser.eval("document.activeElement.className"), "skip");
    browser.press("Tab");
    assert_eq!(focus(&mut browser), "key");
    browser.press("Tab");
    assert_eq!(focus(&mut browser), "Renew api now");
    let ring = browser.eval("getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(ring, "solid", "the focus can be seen");
    // Without the key it is asked for; with a wrong one it is refused and forgotten.
    browser.press("Enter");
    browser.wait_for("document.activeElement.id === 'key'");
    browser.wait_for_text("#said", "Type the admin key");
    browser.write("wrong");
    browser.press("Enter");
    browser.wait_for_text("#said", "not the admin key");
    assert_eq!(browser.eval("document.getElementById('key').value"), "");
    assert_eq!(broker.token("api")["fingerprint"], first);
    browser.write(ADMIN_KEY);
    browser.press("Enter");
    browser.wait_for_text("#said", "api was renewed");
    assert_ne!(broker.token("api")["fingerprint"], first);
    let kept = browser.eval("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])");
    assert!(!kept.as_str().unwrap().contains(ADMIN_KEY), "{kept}");
    // Now the token server fails: the page shows it by itself.
    oauth.oauth.faults.set(Some(Fault::Status(500, None)), None);
    browser.press("Tab");
    assert_eq!(focus(&mut browser), "Renew api now");
    browser.press("Enter");
    browser.wait_for_text("#said", "not renewed: transient");
    browser.wait_for_text("#tokens", "degraded: in use, but not renewed");
    browser.wait_for_text("#todo", "Token api: degraded");
    browser.wait_for_text("#events", "no new token");
    assert_eq!(focus(&mut browser), "Renew api now", "the focus stays where it was");
    broker.get("api", "/hello?q=1");
    browser.wait_for_text("#requests", "GET /hello?q=***");
    browser.wait_for_text("#routes", "1 in all");
    browser.eval("document.querySelector('#requests summary').click()");
    browser.wait_for_text("#requests details", "curl 'http");
    browser.eval("document.querySelector('#requests details button').click()");
    browser.wait_for_text("#said", "as curl");
    oauth.oauth.faults.set(None, None);
    assert_eq!(broker.admin("POST", "/api/tokens/api/refresh").status, 200);
    browser.wait_for_text("#tokens", "✓ valid");
    browser.wait_for_text("#summary", "Nothing: 1 of 1 tokens are valid");
    // A tab that nobody sees lets go; one that is seen again is live.
    for (hidden, state) in [(true, "paused"), (false, "live")] {
        browser.eval(&format!("Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }})"));
        browser.eval("document.dispatchEvent(new Event('visibilitychange'))");
        browser.wait_for(&format!("document.body.dataset.link === '{state}'"));
    }
    browser.wait_for_text("#tokens", "✓ valid");
    was_quiet(&mut browser, &broker);
}

#[test]
fn what_others_send_is_text_in_the_page() {
    let evil = "<img src=x onerror=alert(1)><script>document.title='owned'</script>";
    let upstream = Upstream::start(move |_| {
        Action::Reply(format!("HTTP/1.1 200 OK\r\nX-Evil: {evil}\r\nContent-Length: 0\r\n\r\n").into_bytes())
    });
    let server = Upstream::start(move |_| {
        let body = serde_json::json!({ "error": "invalid_client", "error_description": evil }).to_string();
        let head =
            format!("HTTP/1.1 401 X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        Action::Reply((head + &body).into_bytes())
    });
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "secret", "a-secret");
    let config = format!(
        "inspector = true\n{}[token.bad]\nurl = \"{}/token\"\nclient_id = \"a\"\nclient_secret = {{ file = \"secret\" }}\n\
         [route.bad]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\n",
        static_route(&upstream, ""),
        server.url(),
        upstream.url()
    );
    let broker = Broker::start_in(directory, &config, |_| {});
    broker.wait_for_state("bad", "rejected");
    let Some(mut browser) = page(&broker) else { return };
    broker.request("api", "GET", "/&lt;b&gt;?&amp=1", &[("X-Evil", evil), ("User-Agent", evil)], b"");
    browser.wait_for_text("#requests", "GET /&lt;b&gt;?&amp=***");
    browser.eval("document.querySelector('#requests summary').click()");
    browser.wait_for_text("#requests details", evil);
    browser.wait_for_text("#tokens", "<img src=x");
    assert_eq!(browser.eval("document.querySelectorAll('img, main script, #requests b').length"), 0);
    assert_eq!(browser.eval("document.title"), "(1) tokenbroker");
    was_quiet(&mut browser, &broker);
}

#[test]
fn a_lost_connection_is_told_plainly_and_a_new_start_shows_nothing_of_the_old() {
    let upstream = Upstream::ok();
    let listen = format!("127.0.0.1:{}", crate::door::free_port());
    let start = |directory, route: &str| {
        let text = static_route(&upstream, "")
            .replace("route.api", &format!("route.{route}"))
            .replace("token.api", &format!("token.{route}"));
        Broker::start_in(directory, &text, |command| {
            let file = PathBuf::from(command.get_args().nth(1).unwrap());
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, text.replacen("127.0.0.1:0", &listen, 1)).unwrap();
        })
    };
    let mut first = start(tempfile::tempdir().unwrap(), "old");
    let Some(mut browser) = page(&first) else { return };
    browser.wait_for_text("#routes", "old");
    first.stop();
    browser.wait_for("!document.getElementById('lost').hidden");
    browser.wait_for_text("#lost", "stale");
    assert_eq!(browser.text("#link-words"), "connection lost");
    assert!(browser.text("#routes").contains("old"), "what is known stays to be seen");
    browser.picture(&picture("lost.png"), 1280, "light");
    let second = start(tempfile::tempdir().unwrap(), "new");
    browser.wait_for("document.body.dataset.link === 'live'");
    browser.wait_for("document.getElementById('lost').hidden");
    let text = browser.text("body");
    assert!(text.contains("new") && !text.contains("old"), "{text}");
    let left = browser.eval("document.body.innerText.match(/NaN|undefined|null/g)?.length ?? 0");
    assert_eq!(left, 0, "{text}");
    assert!(browser.complaints().is_empty());
    drop(second);
}

#[test]
fn the_page_can_be_read_in_light_and_dark_and_in_a_narrow_window() {
    let oauth = OAuth::start(Duration::from_secs(900));
    let (upstream, soon) = (Upstream::ok(), jiff::Timestamp::now() + Duration::from_secs(9 * 24 * 3600));
    let bad = oauth.config("", "").replace("api", "billing-with-a-longer-name").replacen(
        "client_id = \"",
        "client_id = \"x",
        1,
    );
    let login = "[token.crm]\ngrant = \"authorization_code\"\nurl = \"https://crm.example/token\"\n\
                 authorize_url = \"https://crm.example/authorize\"\nclient_id = \"a\"\nclient_auth = \"none\"\n\
                 [route.crm]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://crm.example\"\n";
    let secret = format!("secret_expires = {soon:.0}");
    let fixed = static_route(&upstream, "").replace("api", "partner");
    let config = format!("inspector = true\n{}{bad}{login}{fixed}", oauth.config(&secret, ""));
    let broker = Broker::start_in(oauth.directory(), &config, |_| {});
    broker.wait_for_state("api", "valid");
    broker.wait_for_state("crm", "needs_login");
    let Some(mut browser) = page(&broker) else { return };
    for number in 0..5 {
        broker.get("api", &format!("/v1/invoices/{number}?page=2"));
        broker.get("partner", "/status");
        broker.get("billing-with-a-longer-name", "/v1/bills");
    }
    browser.wait_for_text("#tokens", "tokenbroker -c");
    browser.wait_for_text("#todo", "ends soon, in");
    browser.wait_for_text("#requests", "/v1/invoices/4");
    browser.wait_for_text("#routes", "half within");
    browser.wait_for_text("#events", "token obtained");
    browser.eval("document.querySelector('#requests summary').click()");
    browser.wait_for_text("#requests details", "Once more, through the broker");
    for (width, scheme) in [(1280, "light"), (1280, "dark"), (420, "light"), (420, "dark")] {
        browser.picture(&picture(&format!("{scheme}-{width}.png")), width, scheme);
        let wide = browser.eval("document.documentElement.scrollWidth - innerWidth");
        assert!(wide.as_i64().unwrap() <= 0, "{wide} pixels wider than {width}");
        let ratio = browser.eval(CONTRAST);
        assert!(ratio.as_f64().unwrap() >= 4.5, "a contrast of {ratio} in {scheme}");
    }
    let unnamed = "[...document.querySelectorAll('button, input, progress, summary')].filter(node => \
                   !(node.innerText || node.ariaLabel || node.labels?.length)).length";
    assert_eq!(browser.eval(unnamed), 0, "everything that can be used has a name");
    assert_eq!(browser.eval("document.querySelectorAll('th:not([scope])').length"), 0);
    was_quiet(&mut browser, &broker);
}

/// The least contrast of a text with its ground (WCAG 2.2, 1.4.3), of all texts in the page.
const CONTRAST: &str = "(() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((part) => part / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if ((parts(colour)[3] ?? 1) > 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const texts = [...document.querySelectorAll('body *')].filter((node) => node.checkVisibility() &&
    [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
  return Math.min(...texts.map((node) => {
    const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  }));
})()";
