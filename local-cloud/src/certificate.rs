//! The development certificate: self-signed, for loopback and the configured host, never for anything else.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("the development certificate could not be made")]
    Make(#[from] rcgen::Error),
    #[error("the certificate file {path} could not be read or written")]
    File { path: PathBuf, source: std::io::Error },
    #[error("the certificate file {path} does not hold one certificate and its key; delete it to get a new one")]
    Content { path: PathBuf },
    #[error("TLS does not accept the certificate")]
    Tls(#[from] rustls::Error),
}

pub(crate) struct Certificate {
    /// The certificate alone, for clients to trust.
    pub pem: String,
    key_pem: String,
}

impl Certificate {
    /// A fresh one for `host` and loopback.
    pub fn make(host: &str) -> Result<Self, CertificateError> {
        let mut names = vec![host.to_owned(), "localhost".into(), "127.0.0.1".into(), "::1".into()];
        names.dedup();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "local-cloud development certificate");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        Ok(Self { pem: params.self_signed(&key)?.pem(), key_pem: key.serialize_pem() })
    }

    /// The one kept in `path`, certificate and key together; made there if the file is absent. A kept
    /// certificate goes on naming the host it was made for.
    pub fn keep(path: &Path, host: &str) -> Result<Self, CertificateError> {
        let failed = |source| CertificateError::File { path: path.to_owned(), source };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let content = || CertificateError::Content { path: path.to_owned() };
                let split = text.find("-----BEGIN PRIVATE KEY-----").ok_or_else(content)?;
                let (pem, key_pem) = text.split_at(split);
                let kept = Self { pem: pem.to_owned(), key_pem: key_pem.to_owned() };
                kept.der().map_err(|_| content())?;
                Ok(kept)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let made = Self::make(host)?;
                let mut options = std::fs::OpenOptions::new();
                options.write(true).create_new(true);
                #[cfg(unix)]
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
                let mut file = options.open(path).map_err(failed)?;
                file.write_all(made.pem.as_bytes()).map_err(failed)?;
                file.write_all(made.key_pem.as_bytes()).map_err(failed)?;
                Ok(made)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// HTTP/2 first, as Transcribe has it: the Python client `amazon-transcribe` offers both and refuses to go on with
    /// 1.1. Clients of WebSockets, which need 1.1, offer only that.
    pub fn server_config(&self) -> Result<ServerConfig, CertificateError> {
        let (chain, key) = self.der().map_err(|error| rustls::Error::General(error.to_string()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn der(&self) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rustls::pki_types::pem::Error> {
        let chain = CertificateDer::from_pem_slice(self.pem.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())?;
        Ok((chain, key))
    }
}
