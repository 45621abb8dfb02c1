//! The URL of a database: where it leads, and the same database by another way.

use std::fmt::Write;

/// A URL of PostgreSQL, taken apart as far as it is needed to lead it elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Url {
    /// `user:password@`, as it stands there.
    login: String,
    host: String,
    port: u16,
    database: String,
    /// What stands after the question mark, but what is about the way or about `options`.
    parameters: Vec<String>,
    /// The `options` of the session, as they stand there.
    options: Vec<String>,
}

impl Url {
    /// Takes it apart; `None` if it is none with a host.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (place, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = place
            .rsplit_once('@')
            .map_or(("", place), |(login, place)| (login, place));
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
            _ => (place, 5432),
        };
        if host.is_empty() {
            return None;
        }
        let (mut parameters, mut options) = (Vec::new(), Vec::new());
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=').unwrap_or((parameter, "")) {
                ("options", value) => options.push(value.to_owned()),
                ("host" | "hostaddr" | "port" | "sslmode" | "ssl-mode", _) => {}
                _ => parameters.push(parameter.to_owned()),
            }
        }
        let login = if login.is_empty() {
            String::new()
        } else {
            format!("{login}@")
        };
        let (host, database) = (host.to_owned(), database.to_owned());
        Some(Self {
            login,
            host,
            port,
            database,
            parameters,
            options,
        })
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Another database of the same server, in the same way.
    pub(crate) fn of_database(&self, name: &str) -> String {
        let mut url = format!(
            "postgres://{}{}:{}/{name}",
            self.login, self.host, self.port
        );
        let parameters = self.parameters.iter().cloned();
        let options = self
            .options
            .iter()
            .map(|options| format!("options={options}"));
        for (at, parameter) in parameters.chain(options).enumerate() {
            url.push(if at == 0 { '?' } else { '&' });
            url.push_str(&parameter);
        }
        url
    }

    /// The same database through a loopback port, with these settings on top, as `name=value`.
    pub(crate) fn through(&self, port: u16, settings: &[String]) -> String {
        let mut options = self.options.clone();
        options.extend(
            settings
                .iter()
                .map(|setting| format!("-c%20{}", escape(setting))),
        );
        let mut url = format!(
            "postgres://{}127.0.0.1:{port}/{}?sslmode=disable",
            self.login, self.database
        );
        for parameter in &self.parameters {
            url.push('&');
            url.push_str(parameter);
        }
        if !options.is_empty() {
            url.push_str("&options=");
            url.push_str(&options.join("%20"));
        }
        url
    }
}

/// Percent-encodes what is special in a query.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'~' => {
                escaped.push(char::from(byte))
            }
            // Writing to a `String` cannot fail.
            _ => drop(write!(escaped, "%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::Url;

    #[test]
    fn a_url_leads_through_another_port() {
        let url = "postgres://ann:p%40ss@db.example:6000/shop?sslmode=require&application_name=x&options=-c%20a%3D1";
        let url = Url::parse(url).unwrap();
        assert_eq!(url.address(), "db.example:6000");
        let through = url.through(7000, &["deadlock_timeout=1ms".to_owned()]);
        assert_eq!(
            through,
            "postgres://ann:p%40ss@127.0.0.1:7000/shop?sslmode=disable&application_name=x&options=-c%20a%3D1%20-c%20deadlock_timeout%3D1ms"
        );
        assert_eq!(
            url.of_database("fresh"),
            "postgres://ann:p%40ss@db.example:6000/fresh?application_name=x&options=-c%20a%3D1"
        );
        assert_eq!(
            Url::parse("postgresql://[::1]/shop").unwrap().address(),
            "[::1]:5432"
        );
        assert!(Url::parse("postgres:///shop").is_none());
        assert!(Url::parse("mysql://localhost/shop").is_none());
    }
}
