//! Client secrets at a vendor, and what stops the one who wants to change them.

use tokenbroker::standin::pki::Clients;
use tokenbroker::standin::{Comap, Vanco};

use super::Section;
use crate::secrets::{QUICK, another, comap, run, with};
use crate::support::{HOUR, Setup, Stand, issuer};

#[test]
fn what_stops_a_change_of_client_secrets_reads_well() {
    let mut section = Section::default();
    let stand = comap(QUICK).start();
    let person = stand.vendor.users.access_token();
    let ours = stand.vendor.secrets.lock()[0].id.clone();
    say(&mut section, &stand, "rotate comap", "");
    say(&mut section, &stand, "list comap", "");
    say(&mut section, &stand, "rotate comap --admin-token-stdin", "wrong-token");
    say(&mut section, &stand, "delete comap x --admin-token-stdin", "wrong-token");
    say(&mut section, &stand, "delete comap x --admin-token-stdin", &person);
    say(&mut section, &stand, &format!("delete comap {ours} --admin-token-stdin"), &person);
    say(&mut section, &stand, "import comap", Comap::SECRET);
    say(&mut section, &stand, "export comap --to out", "");
    say(&mut section, &stand, "rotate comap --admin-token-stdin --current x", &person);
    say(&mut section, &stand, "rotate comap --admin-token-stdin --remove x", &person);
    stand.vendor.secrets.lock().push(another(300));
    say(&mut section, &stand, "rotate comap --admin-token-stdin", &person);
    drop(stand);

    let stand = with(Setup::new("vanco", Vanco::new(issuer(HOUR))), QUICK).start();
    let foreign = another(300);
    stand.vendor.secrets.lock().push(foreign.clone());
    let admin = stand.vendor.admins.access_token();
    say(&mut section, &stand, "rotate vanco --admin-token-stdin", &admin);
    say(&mut section, &stand, &format!("delete vanco {} --admin-token-stdin", foreign.id), &admin);
    say(&mut section, &stand, "rotate vanco --admin-token-stdin --current x", &admin);
    drop(stand);

    let stand = with(Setup::comodo(HOUR, Clients::Must), QUICK).start();
    say(&mut section, &stand, "rotate comodo", "");
    say(&mut section, &stand, "list comodo", "");
    section.is_golden("secret");
}

/// A command beside the broker, with that on stdin.
fn say<V>(section: &mut Section, stand: &Stand<V>, command: &str, stdin: &str) {
    let arguments: Vec<_> = ["secret"].into_iter().chain(command.split(' ')).collect();
    let (code, out, err) = run(stand, &arguments, stdin);
    section.show(&format!("tokenbroker secret {command}"), &format!("exit {code}\n{out}{err}"));
}
