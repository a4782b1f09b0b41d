//! Which pages may use the API from a browser.
//!
//! A token travels in a header or a message, never in a cookie, so a foreign page has nothing of its visitor's to
//! misuse; the list is the second lock. By default only pages of this very host come in, which is all that the pages
//! served here need. Whoever is no browser sends no `Origin` and is not asked.

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use tower_http::cors::AllowOrigin;
use url::Url;

/// The word for every page.
const ANY: &str = "*";

#[derive(Debug, Clone)]
pub(super) struct Origins {
    any: bool,
    listed: Vec<String>,
}

impl Origins {
    /// `https://app.example.com`, `http://localhost:3000`, `null` (pages from files), or `*` for all.
    ///
    /// # Errors
    /// A sentence that names what is no origin.
    pub fn new(list: &[String]) -> Result<Self, String> {
        let mut origins = Origins { any: false, listed: Vec::new() };
        for text in list {
            match text.trim() {
                ANY => origins.any = true,
                "null" => origins.listed.push("null".to_owned()),
                text => origins.listed.push(origin(text).ok_or_else(|| {
                    format!("web.allowed_origins: `{text}` is no origin; write it as https://app.example.com, without a path")
                })?),
            }
        }
        Ok(origins)
    }

    /// Whether who sends these headers may come in.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        match headers.get(header::ORIGIN) {
            None => true,
            Some(origin) => self.any || self.is_own(origin, headers) || self.is_listed(origin),
        }
    }

    /// What browsers are told about answers to other pages.
    pub fn cors(&self) -> AllowOrigin {
        if self.any {
            return AllowOrigin::any();
        }
        let origins = self.clone();
        AllowOrigin::predicate(move |origin: &HeaderValue, parts: &Parts| {
            origins.is_own(origin, &parts.headers) || origins.is_listed(origin)
        })
    }

    fn is_listed(&self, origin: &HeaderValue) -> bool {
        self.listed.iter().any(|listed| listed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
    }

    /// A page that came from the host it now asks. The scheme is not compared: TLS ends at the load balancer.
    fn is_own(&self, origin: &HeaderValue, headers: &HeaderMap) -> bool {
        let (Ok(origin), Some(Ok(host))) = (origin.to_str(), headers.get(header::HOST).map(HeaderValue::to_str)) else {
            return false;
        };
        let own = origin.split_once("://").map(|(_, authority)| authority);
        !host.is_empty() && own.is_some_and(|own| own.eq_ignore_ascii_case(host))
    }
}

/// In the form browsers send it.
fn origin(text: &str) -> Option<String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    bare.then(|| url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(list: &[&str], origin: Option<&'static str>) -> bool {
        let list: Vec<String> = list.iter().map(|one| (*one).to_owned()).collect();
        let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("cast.example.com"))]);
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        Origins::new(&list).unwrap().admit(&headers)
    }

    #[test]
    fn an_empty_list_means_pages_of_this_host_and_whoever_is_no_browser() {
        for own in [None, Some("https://cast.example.com"), Some("http://CAST.example.com")] {
            assert!(admits(&[], own), "{own:?}");
        }
        for foreign in [
            "https://evil.example",
            "https://cast.example.com.evil.example",
            "https://evil-cast.example.com",
            "https://cast.example.com:8443",
            "null",
            "",
            "cast.example.com",
            "https://evil.example://cast.example.com",
        ] {
            assert!(!admits(&[], Some(foreign)), "{foreign}");
            assert!(admits(&["*"], Some(foreign)), "{foreign}");
        }
    }

    #[test]
    fn a_listed_origin_is_the_whole_origin() {
        let list = ["https://app.example.com", "http://localhost:3000/", "null", "HTTPS://Big.example:443"];
        for listed in ["https://app.example.com", "http://localhost:3000", "null", "https://big.example"] {
            assert!(admits(&list, Some(listed)), "{listed}");
        }
        for foreign in
            ["http://app.example.com", "https://app.example.com:444", "http://localhost", "https://example.com"]
        {
            assert!(!admits(&list, Some(foreign)), "{foreign}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused_by_name() {
        for bad in ["app.example.com", "https://x/path", "ftp://x", "https://x?y", "https://me@x", "https://*.x y"] {
            assert!(Origins::new(&[bad.to_owned()]).unwrap_err().contains(bad), "{bad}");
        }
    }
}
