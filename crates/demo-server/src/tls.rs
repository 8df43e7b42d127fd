//! A certificate authority of the server's own, and what it signed for the server.
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures_rustls::TlsAcceptor;
use futures_rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use futures_rustls::rustls::crypto::aws_lc_rs;
use futures_rustls::rustls::{self, ServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// The certificate of the authority as PEM, and an acceptor for `localhost` and the addresses.
pub(crate) fn authority(addresses: &[Ipv4Addr]) -> io::Result<(String, TlsAcceptor)> {
    let (authority, certificate, key) = certificates(addresses).map_err(io::Error::other)?;
    let chain = vec![certificate.der().clone()];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = config(chain, key).map_err(io::Error::other)?;
    Ok((authority.pem(), TlsAcceptor::from(Arc::new(config))))
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn certificates(
    addresses: &[Ipv4Addr],
) -> Result<(Authority, rcgen::Certificate, KeyPair), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "brigade demo authority");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    // An IP address among the names becomes one in the certificate.
    let mut names = vec![String::from("localhost")];
    names.extend(addresses.iter().map(Ipv4Addr::to_string));
    let mut params = CertificateParams::new(names)?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
        .distinguished_name
        .push(DnType::CommonName, "brigade demo server");
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &authority)?;
    Ok((authority, certificate, key))
}

fn config(
    chain: Vec<futures_rustls::pki_types::CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    // The provider is named, so that no other crate's choice for the process is in the way.
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
