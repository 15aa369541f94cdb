//! A peer: the smallest Pingora proxy that does what is compared. HTTP/1.1 in, the token out of an arc-swap cell, one
//! upstream with keep-alive, plain or by TLS, with a client certificate or without.
//!
//!     peer-pingora LISTEN UPSTREAM_IP:PORT TOKEN [CA [CERT KEY]]
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::HeaderValue;
use pingora::prelude::*;
use pingora_core::server::configuration::ServerConf;
use pingora_core::tls::pkey::PKey;
use pingora_core::tls::x509::X509;
use pingora_core::utils::tls::CertKey;

struct Inject {
    token: ArcSwap<HeaderValue>,
    peer: HttpPeer,
}

#[async_trait]
impl ProxyHttp for Inject {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(self.peer.clone()))
    }

    async fn upstream_request_filter(&self, _: &mut Session, request: &mut RequestHeader, _: &mut ()) -> Result<()> {
        let token: HeaderValue = (**self.token.load()).clone();
        request.insert_header(http::header::AUTHORIZATION, token)?;
        Ok(())
    }
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, token, tls @ ..] = &args[..] else { panic!("LISTEN UPSTREAM TOKEN [CA [CERT KEY]]") };
    let mut peer = HttpPeer::new(upstream.as_str(), !tls.is_empty(), "localhost".into());
    if let [ca, ..] = tls {
        let roots = X509::stack_from_pem(&read(ca)).unwrap();
        peer.options.ca = Some(Arc::new(roots.into_boxed_slice()));
    }
    if let [_, cert, key] = tls {
        let chain = X509::stack_from_pem(&read(cert)).unwrap();
        let key = PKey::private_key_from_pem(&read(key)).unwrap();
        peer.client_cert_key = Some(Arc::new(CertKey::new(chain, key)));
    }
    let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: 1024, ..Default::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let token = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    let inject = Inject { token: ArcSwap::from_pointee(token), peer };
    let mut service = http_proxy_service(&server.configuration, inject);
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever();
}
