//! A server on a port of its own for the tests of this room, and clients that are pointed at it.

use axum::Router;
use tokio_util::task::AbortOnDropHandle;

use super::{Clients, Settings, StaticCredentials};

/// Runs as long as it lives.
pub(super) struct Fake {
    pub url: String,
    _server: AbortOnDropHandle<()>,
}

impl Fake {
    pub async fn serve(router: Router) -> Fake {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Fake { url, _server: AbortOnDropHandle::new(server) }
    }

    pub async fn clients(&self, settings: Settings) -> Clients {
        clients(&self.url, settings).await
    }
}

pub(super) async fn clients(url: &str, settings: Settings) -> Clients {
    let settings = Settings {
        region: Some("us-east-1".to_owned()),
        endpoint_url: Some(url.to_owned()),
        credentials: Some(StaticCredentials { access_key: "test".to_owned(), secret_key: "test".to_owned() }),
        ..settings
    };
    Clients::connect(&settings, None).await.unwrap()
}
