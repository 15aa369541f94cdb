//! What a token's login with a browser needs: a page, a place to come back to, and a place to end it.

use super::Check;
use super::url::Parts;
use crate::config::file::TokenFile;
use crate::oauth::client::is_loopback;
use crate::oauth::dialect::Dialect;
use crate::oauth::file::Grant;

impl Check<'_> {
    pub(super) fn login(&mut self, name: &str, file: &TokenFile, dialect: &Dialect, grant: Grant) {
        if let Some((problem, hint)) = file.redirect_uri.as_deref().and_then(redirect_fault) {
            self.problem(&["token", name, "redirect_uri"], problem, hint);
        }
        if grant == Grant::Static {
            return;
        }
        let logs_in = grant == Grant::AuthorizationCode;
        for (key, given) in
            [("authorize_url", file.authorize_url.is_some()), ("redirect_uri", file.redirect_uri.is_some())]
        {
            if given && !logs_in {
                let problem = format!("is not used by the grant {}", grant.as_str());
                self.wrong_key(&["token", name, key], &problem, "set the grant that is meant, or remove it");
            }
        }
        let page = dialect.authorize.as_ref().filter(|_| logs_in);
        if page.is_some_and(|page| page.url.uses("authorize_url")) && file.authorize_url.is_none() {
            let problem = format!("the login of the dialect {} needs `authorize_url`", dialect.name);
            self.lacks(
                name,
                "authorize_url",
                &problem,
                "add the page where a person logs in, which the vendor's documentation names",
            );
        }
        if file.revoke_url.is_some() && dialect.revoke.is_none() {
            let problem = format!("the dialect {} has no request that ends a token", dialect.name);
            self.wrong_key(&["token", name, "revoke_url"], &problem, "remove it, or choose another dialect");
        }
    }
}

/// Security: a code that comes back over the network in the clear can be read there (RFC 8252 §7.3, §8.3).
fn redirect_fault(uri: &str) -> Option<(&'static str, &'static str)> {
    const HINT: &str = "write it exactly as it is registered, such as http://127.0.0.1:8484/callback";
    let Some((scheme, rest)) = uri.split_once(':') else { return Some(("is not a URI", HINT)) };
    let mut letters = scheme.bytes();
    let named = letters.next().is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !named || rest.is_empty() || !rest.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Some(("is not a URI", HINT));
    }
    match (scheme, Parts::parse(uri)) {
        ("http", Ok(parts)) if !is_loopback(&parts.host) => {
            Some(("the code would cross the network unencrypted", "use https://, or http:// to 127.0.0.1"))
        }
        ("http", Ok(parts)) if !uri.starts_with(&format!("http://{}:{}", host(&parts), parts.port)) => {
            Some(("its port is missing", HINT))
        }
        ("http" | "https", Err(why)) => Some(("is not a usable URI", why)),
        _ => None,
    }
}

fn host(parts: &Parts) -> String {
    if parts.host.contains(':') { format!("[{}]", parts.host) } else { parts.host.clone() }
}
