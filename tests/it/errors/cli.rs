//! Commands that cannot do what they are asked, and a broker that cannot start.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use super::Section;
use crate::store::STORE;
use crate::support::{Broker, Upstream, binary, write};

const ROUTE: &str = "[route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://api.example.com\"\ntoken = \"api\"\n";
const TOKENS: &str = "[token.api]\ngrant = \"static\"\naccess_token = { file = \"secret\" }\n\
    [token.client]\nurl = \"http://127.0.0.1:9/x\"\nclient_id = \"c\"\nclient_secret = { file = \"secret\" }\n\
    [token.person]\nurl = \"http://127.0.0.1:9/x\"\nclient_id = \"c\"\nclient_secret = { file = \"secret\" }\n\
    grant = \"authorization_code\"\nauthorize_url = \"https://a.example\"\nredirect_uri = \"https://app.example/callback\"\n\
    [token.many]\ndialect = \"vanco\"\nurl = \"http://127.0.0.1:9/x\"\nbase_url = \"http://127.0.0.1:9\"\nclient_id = \"c\"\n\
    client_secret = { file = \"secret\" }\nvars = { tenant = \"x\" }\n\
    [token.covata]\ndialect = \"covata\"\nbase_url = \"http://127.0.0.1:9\"\nclient_id = \"c\"\n\
    client_secret = { file = \"secret\" }\ngrant = \"client_credentials\"\n";

/// Commands about tokens, without a broker and beside one.
const COMMANDS: &[&str] = &[
    "status",
    "reload",
    "healthcheck",
    "token none",
    "token client",
    "login none",
    "login client",
    "login person",
    "login person --paste",
    "logout none",
    "logout api",
    "logout client",
    "client list none",
    "client list client",
    "client list api",
    "client register covata",
    "client register covata --name n --redirect-uri x --access-ttl soon",
    "client delete covata nobody",
    "secret list none",
    "secret list api",
    "secret list client",
    "secret rotate client",
    "secret import client",
    "secret delete client x",
    "secret export client --to DIR/out",
    "store list",
    "store forget none",
    "store export DIR/secret",
];

#[test]
fn what_commands_say_that_cannot_do_it_reads_well() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    write(home, "secret", "the-secret-of-it");
    write(home, "store_key", "0123456789abcdef0123456789abcdef");
    let mut section = Section::default();
    usage(&mut section, home);
    let said = |section: &mut Section, what: &str, command: &str, config: &str| {
        let arguments = command.replace("DIR", home.to_str().unwrap());
        let arguments: Vec<_> = ["-c", config].into_iter().chain(arguments.split(' ')).collect();
        section.command(&format!("tokenbroker {command}{what}"), home, &arguments);
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let admin =
        format!("[admin]\nlisten = \"127.0.0.1:{}\"\nkey = {{ file = \"secret\" }}\n", crate::door::free_port());
    for (file, store) in [("memory.toml", ""), ("file.toml", STORE)] {
        write(home, file, format!("{admin}{store}{TOKENS}{ROUTE}"));
        let what = if store.is_empty() { "" } else { ", with a store" };
        COMMANDS.iter().for_each(|command| said(&mut section, what, command, file));
    }
    starts(&mut section, home, port);
    pasted(&mut section, home);
    other_servers(&mut section, home);
    beside_a_broker(&mut section);
    section.is_golden("cli");
}

fn usage(section: &mut Section, home: &Path) {
    for command in [
        "nothing",
        "statsu",
        "run --port 80",
        "--log-level loud run",
        "token",
        "explain nothing-like-it",
        "explain trans",
        "dialects comodo",
        "dialects zzzzzzzz",
        "-c none.toml run",
        "-c none.toml check",
        "-c none.toml demo",
        "-c . check",
        "-c large check",
        "-c bytes check",
        "-c /dev/null check",
        "run",
    ] {
        write(home, "large", vec![b'#'; (1 << 20) + 1]);
        write(home, "bytes", b"# \xff");
        let arguments: Vec<_> = command.split(' ').collect();
        section.command(&format!("tokenbroker {command}"), home, &arguments);
    }
}

/// A broker that cannot start.
fn starts(section: &mut Section, home: &Path, port: u16) {
    let route = |listen: &str| {
        format!("[route.api]\nlisten = \"{listen}\"\nupstream = \"https://api.example.com\"\ntoken = false\n")
    };
    let admin = "[admin]\nlisten = \"127.0.0.1:0\"\nkey = { file = \"secret\" }\n";
    write(home, "file", "");
    for (what, config) in [
        ("a port that is taken", format!("{admin}{}", route(&format!("127.0.0.1:{port}")))),
        ("the operator's port is taken", format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n{}", route("127.0.0.1:0"))),
        ("a file where the socket should be", format!("{admin}{}", route(&format!("unix:{}/file", home.display())))),
    ] {
        write(home, "run.toml", config);
        section.command(
            &format!("tokenbroker run: {what}"),
            home,
            &["-c", "run.toml", "--log-format", "text", "--log-level", "error", "run"],
        );
    }
}

/// A login whose URL is pasted, and is none or another's.
fn pasted(section: &mut Section, home: &Path) {
    let urls = ["https://elsewhere.example", "CALLBACK?state=a&code=b", "CALLBACK?state=a&state=b&code=c"];
    let urls = urls.map(|url| url.replace("CALLBACK", "https://app.example/callback"));
    let stdin = std::fs::File::open(write(home, "pasted", urls.join("\n"))).unwrap();
    let mut login = binary();
    login.current_dir(home).args(["-c", "file.toml", "login", "person", "--paste"]).stdin(stdin);
    section.run(&format!("tokenbroker login person --paste, with {}", urls.join(", ")), home, &mut login);
}

/// What stands in the broker's place.
fn other_servers(section: &mut Section, home: &Path) {
    for (what, words) in [("nothing", ""), ("something else", "SSH-2.0\r\n")] {
        let address = super::tls::answering(words.as_bytes());
        let admin = format!("[admin]\nlisten = \"{address}\"\nkey = {{ file = \"secret\" }}\n");
        write(home, "other.toml", format!("{admin}{TOKENS}{ROUTE}"));
        for command in ["status", "reload"] {
            section.command(
                &format!("tokenbroker {command}, where {what} answers"),
                home,
                &["-c", "other.toml", command],
            );
        }
    }
}

/// Commands that a running broker refuses.
fn beside_a_broker(section: &mut Section) {
    let api = Upstream::ok();
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "secret", "the-secret-of-it");
    let home = directory.path().to_owned();
    let config = format!("{TOKENS}{}", ROUTE.replace("https://api.example.com", &api.url()));
    let broker = Broker::start_in(directory, &config, |_| {});
    broker.wait_for_state("api", "valid");
    // Writes the file with the address of its operator's listener.
    broker.command(&["status"]);
    for command in
        COMMANDS.iter().filter(|command| !command.starts_with("status") && !command.starts_with("healthcheck"))
    {
        let arguments = command.replace("DIR", home.to_str().unwrap());
        let arguments: Vec<_> = ["-c", "operator.toml"].into_iter().chain(arguments.split(' ')).collect();
        let mut run = binary();
        run.current_dir(&home).args(arguments).stdin(Stdio::null());
        section.run(&format!("tokenbroker {command}, beside a broker"), &home, &mut run);
    }
    broker.reconfigure(&config.replace("grant = \"static\"", "grant = \"statc\""));
    section.command("tokenbroker reload of a wrong file", &home, &["-c", "operator.toml", "reload"]);
    write(&home, "admin_key", "another key");
    std::fs::set_permissions(home.join("admin_key"), PermissionsExt::from_mode(0o600)).unwrap();
    section.command("tokenbroker reload with a wrong admin key", &home, &["-c", "operator.toml", "reload"]);
    std::fs::remove_file(home.join("admin_key")).unwrap();
    section.command("tokenbroker reload without the file of the key", &home, &["-c", "operator.toml", "reload"]);
}
