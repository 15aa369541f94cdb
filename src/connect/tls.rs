//! What a TLS failure means, in words for the operator.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

use super::Endpoint;

impl Endpoint {
    /// A TLS failure in words for the operator: what, and what to do.
    pub fn explain(&self, error: &rustls::Error) -> (String, String) {
        use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage};
        let certificate = self.tls.as_ref().and_then(|tls| tls.certificate.as_deref());
        let (what, fix) = match (error, certificate) {
            (AlertReceived(alert), Some(ours)) if refuses_our_certificate(error) => {
                let fix = format!("the vendor has to accept {ours}");
                return (format!("it refuses the client certificate (alert {alert:?})"), fix);
            }
            (AlertReceived(alert), None) if refuses_our_certificate(error) => {
                let what = format!("it demands a client certificate (alert {alert:?}), and none is configured");
                return (what, "set `identity`".into());
            }
            (AlertReceived(AlertDescription::ProtocolVersion), _) => {
                ("it offers neither TLS 1.2 nor 1.3", "its owner has to turn one of them on")
            }
            (AlertReceived(AlertDescription::HandshakeFailure), None) => (
                "it ended the handshake",
                "it wants a client certificate (see `identity`), or offers no cipher of TLS 1.2 or 1.3 that is still safe",
            ),
            // A bad signature is that of another CA of the same name.
            (InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature), _) => {
                ("no CA that is trusted has signed its certificate", "name its CA with `ca`")
            }
            (InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }), _) => {
                ("its certificate has expired", "its owner has to renew it; is this machine's clock right?")
            }
            (InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }), _) => {
                ("its certificate is not valid yet", "is this machine's clock right?")
            }
            (InvalidMessage(_), _) => ("what it says is not TLS", "is this the port for https, and not for http?"),
            (InvalidCertificate(CertificateError::NotValidForName), _) => {
                ("its certificate is for another name", "set `server_name` to the name in the certificate")
            }
            (InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }), _) => {
                // They come as `DnsName("a.example")`.
                let names: Vec<_> = presented.iter().filter_map(|name| name.split('"').nth(1)).take(5).collect();
                let what = format!("its certificate is for {}, not for this name", names.join(", "));
                return (what, "correct the URL, or set `server_name` to the name in the certificate".into());
            }
            (InvalidCertificate(_), _) => return (error.to_string(), "its owner has to renew its certificate".into()),
            _ => return (error.to_string(), "is this port really TLS 1.2 or 1.3?".into()),
        };
        (what.into(), fix.into())
    }
}

/// Why a client's handshake with a listener of ours came to nothing, in words for the operator.
pub fn explain_client(error: &io::Error) -> String {
    use rustls::Error::{InappropriateMessage, InvalidCertificate, InvalidMessage, NoCertificatesPresented};
    match tls_error(error) {
        Some(NoCertificatesPresented) => "it has no certificate, and `clients.ca` demands one".into(),
        Some(InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            "its certificate is not of the CA in `clients.ca`".into()
        }
        Some(InvalidCertificate(CertificateError::Revoked)) => "its certificate was revoked".into(),
        Some(InvalidCertificate(e)) => format!("its certificate is refused: {e}"),
        Some(InvalidMessage(_) | InappropriateMessage { .. }) => "that was not TLS: does it say https://?".into(),
        Some(e) => format!("no TLS with it: {e}"),
        None => format!("{error} during the TLS handshake"),
    }
}

/// The TLS error at the bottom of another, if that is what it is. Under TLS 1.3 a server refuses a client certificate only
/// when the answer is read.
pub fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// An error with everything beneath it, on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Did the peer say, by an alert, that it wants another client certificate?
pub fn refuses_our_certificate(error: &rustls::Error) -> bool {
    use AlertDescription as Alert;
    matches!(
        error,
        rustls::Error::AlertReceived(
            Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::CertificateRequired
                // The signature in its chain does not verify: another CA of the same name.
                | Alert::DecryptError
        )
    )
}
