//! Client certificates, trusted roots, server names.

use std::path::PathBuf;
use std::sync::Arc;

use rustls_pki_types::ServerName;

use super::{Check, Named};
use crate::config::file::{IdentityFile, RootsFile};
use crate::connect::Tls;
use crate::expiry::{Expiring, Kind};
use crate::identity::{ClientTls, Identity, Roots, client_tls};

/// TLS to a server, but for its host.
pub(super) struct Secured<'n> {
    pub identity: Option<&'n Identity>,
    pub client: ClientTls,
    /// That is not the host's.
    pub server_name: Option<ServerName<'static>>,
    /// What the client certificate is, for messages.
    certificate: Option<String>,
}

impl Secured<'_> {
    /// To that host; `None` if it has no name that a certificate could bear.
    pub fn to(self, host: String) -> Option<Tls> {
        let name = self.server_name.or_else(|| ServerName::try_from(host).ok())?;
        Some(Tls { client: self.client, name, certificate: self.certificate })
    }
}

impl Check<'_> {
    pub(super) fn identity(&mut self, name: &str, file: &IdentityFile) -> Option<Arc<Identity>> {
        for (key, given, hint) in [
            ("cert", &file.cert, "the PEM file with the client certificate and its chain"),
            ("key", &file.key, "the PEM file with the certificate's private key"),
        ] {
            let said = [key, "p12"].iter().any(|key| self.refused(&["identity", name, key]));
            if given.is_none() && !said {
                self.problem(&["identity", name], &format!("`{key}` is missing"), hint);
            }
        }
        let (cert, key) = (self.watched(file.cert.as_ref()?), self.watched(file.key.as_ref()?));
        let private = self.private(&key, &["identity", name, "key"]);
        let before = self.before.and_then(|before| before.identities.get(name)).cloned();
        let unfilled =
            [("cert", &cert), ("key", &key)].map(|(which, file)| self.is_unfilled(file, &["identity", name, which]));
        if unfilled.contains(&true) {
            return before;
        }
        let identity = match Identity::load(&cert, &key, self.now) {
            Ok(_) if !private => before,
            Ok(identity) => Some(Arc::new(identity)),
            Err(errors) => {
                for (key, e) in errors {
                    self.problem(&["identity", name, key], &e.problem, e.hint);
                }
                before
            }
        };
        if let Some(leaf) = identity.as_ref().map(|identity| &identity.leaf) {
            let (table, which) =
                (format!("identity.{name}"), format!("subject {}, serial {}", leaf.subject, leaf.serial));
            let ending = Expiring::new(Kind::Certificate, &table, "the client certificate", which, leaf.not_after);
            self.ends(&["identity", name, "cert"], ending);
        }
        identity
    }

    /// TLS to a server, as the keys of that table say.
    pub(super) fn secured<'n>(
        &mut self,
        table: &[&str],
        named: &'n Named,
        identity: Option<&str>,
        (ca, roots): (Option<&PathBuf>, RootsFile),
        server_name: Option<&str>,
    ) -> Secured<'n> {
        let found = self.identity_of(table, identity, named);
        let roots = self.trust(table, ca, roots);
        let client = self.tls(table, &roots, found);
        let server_name = self.server_name(table, server_name);
        let certificate = identity.zip(found).map(|(name, found)| format!("[identity.{name}], {}", found.leaf));
        Secured { identity: found, client, server_name, certificate }
    }

    /// Whom a table trusts.
    fn trust(&mut self, table: &[&str], ca: Option<&PathBuf>, roots: RootsFile) -> Roots {
        if roots == RootsFile::Ca && ca.is_none() && !self.refused(&[table, &["ca"]].concat()) {
            self.problem(
                &[table, &["roots"]].concat(),
                "`roots = \"ca\"` needs `ca`",
                "name the file with the CA's certificates",
            );
        }
        let ca = ca.map(|ca| self.watched(ca));
        let system = roots == RootsFile::System;
        let loaded = Roots::load(system, ca.as_ref()).unwrap_or_else(|e| {
            self.problem(&[table, &["ca"]].concat(), &e.problem, e.hint);
            let before = ca.as_ref().and_then(|ca| self.before?.authorities.get(ca));
            before.map_or_else(Roots::default, |extra| Roots { system, extra: extra.clone() })
        });
        if let (Some(ca), Some(first)) = (&ca, loaded.first_to_end()) {
            let which = format!("subject {}, serial {}", first.subject, first.serial);
            let ending = Expiring::ca(&table.join("."), &ca.display().to_string(), which, first.not_after);
            self.ends(&[table, &["ca"]].concat(), ending);
        }
        self.certificates.authorities.extend(ca.map(|ca| (ca, loaded.extra.clone())));
        loaded
    }

    fn identity_of<'n>(&mut self, table: &[&str], wanted: Option<&str>, named: &'n Named) -> Option<&'n Identity> {
        let wanted = wanted?;
        self.using("identity", wanted);
        match named.identities.get(wanted) {
            Some(identity) => identity.as_deref(),
            None => {
                self.unknown(&[table, &["identity"]].concat(), "identity", wanted, named.identities.keys());
                None
            }
        }
    }

    fn tls(&mut self, table: &[&str], roots: &Roots, identity: Option<&Identity>) -> ClientTls {
        client_tls(roots, identity).unwrap_or_else(|e| {
            self.problem(&[table, &["ca"]].concat(), &e.problem, e.hint);
            #[expect(clippy::unwrap_used, reason = "no roots and no certificate: nothing that could be refused")]
            client_tls(&Roots::default(), None).unwrap()
        })
    }

    fn server_name(&mut self, table: &[&str], name: Option<&str>) -> Option<ServerName<'static>> {
        let name = name?;
        let parsed = ServerName::try_from(name.to_owned()).ok();
        if parsed.is_none() {
            self.problem(&[table, &["server_name"]].concat(), "is not a host name", "written like api.example.com");
        }
        parsed
    }
}
