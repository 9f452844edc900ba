//! What a kubelet is configured with: its flags, its configuration file and its drop-ins, and which of them wins. Pure,
//! but for [`process`], which reads a running kubelet's.

pub mod process;

use serde::Deserialize;

use crate::image::quoted;
use crate::yaml;

/// Why a kubelet's configuration was not understood. One line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KubeletError {
    /// A file is no KubeletConfiguration.
    #[error("{file}: expected a KubeletConfiguration: {text}")]
    Configuration {
        /// The file.
        file: String,
        /// What is wrong.
        text: String,
    },
    /// An endpoint is no unix socket.
    #[error("the kubelet's runtime endpoint {0}")]
    Endpoint(String),
    /// A file could not be read.
    #[error("{0}")]
    File(String),
}

/// The runtime's socket unless something else is said (the kubelet's own default).
const DEFAULT_ENDPOINT: &str = "unix:///run/containerd/containerd.sock";
/// The port and address of the kubelet's healthz unless something else is said.
const DEFAULT_HEALTHZ: (i64, &str) = (10248, "127.0.0.1");

/// The settings of a kubelet that matter here; `None` is not set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The runtime's socket.
    pub container_runtime_endpoint: Option<String>,
    /// The image service's socket.
    pub image_service_endpoint: Option<String>,
    /// Where healthz is answered; 0 or less is nowhere.
    pub healthz_port: Option<i64>,
    /// The address of healthz.
    pub healthz_bind_address: Option<String>,
    /// The folder of static pods.
    pub static_pod_path: Option<String>,
}

impl Settings {
    /// These settings, and the other's where these say nothing.
    pub fn or(self, other: Settings) -> Settings {
        // As the kubelet does: an empty string is nothing said.
        let said = |a: Option<String>, b| a.filter(|text| !text.is_empty()).or(b);
        Settings {
            container_runtime_endpoint: said(
                self.container_runtime_endpoint,
                other.container_runtime_endpoint,
            ),
            image_service_endpoint: said(self.image_service_endpoint, other.image_service_endpoint),
            healthz_port: self.healthz_port.or(other.healthz_port),
            healthz_bind_address: said(self.healthz_bind_address, other.healthz_bind_address),
            static_pod_path: said(self.static_pod_path, other.static_pod_path),
        }
    }

    /// Runtime and image endpoint as the kubelet uses them.
    pub fn endpoints(&self) -> (String, String) {
        let runtime = self.container_runtime_endpoint.as_deref().filter(|text| !text.is_empty());
        let runtime = runtime.unwrap_or(DEFAULT_ENDPOINT).to_owned();
        let image = self.image_service_endpoint.clone().filter(|text| !text.is_empty());
        let image = image.unwrap_or_else(|| runtime.clone());
        (runtime, image)
    }

    /// Where healthz is answered, if anywhere.
    pub fn healthz(&self) -> Option<std::net::SocketAddr> {
        let port =
            u16::try_from(self.healthz_port.unwrap_or(DEFAULT_HEALTHZ.0)).ok().filter(|&port| port > 0)?;
        let address: std::net::IpAddr =
            self.healthz_bind_address.as_deref().unwrap_or(DEFAULT_HEALTHZ.1).parse().ok()?;
        let asked = match address {
            std::net::IpAddr::V4(any) if any.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::IpAddr::V6(any) if any.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
            other => other,
        };
        Some((asked, port).into())
    }
}

/// A kubelet's command line, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// The settings it carries.
    pub settings: Settings,
    /// `--config`
    pub config: Option<String>,
    /// `--config-dir`
    pub config_dir: Option<String>,
    /// `--kubeconfig`
    pub kubeconfig: Option<String>,
}

/// Reads a command line as the kubelet does: the last of equal flags wins, `_` is `-`.
pub fn flags(arguments: &[String]) -> Flags {
    let mut flags = Flags::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let Some(flag) = argument.strip_prefix("--") else { continue };
        let (name, joined) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let slot = match name.replace('_', "-").as_str() {
            "container-runtime-endpoint" => &mut flags.settings.container_runtime_endpoint,
            "image-service-endpoint" => &mut flags.settings.image_service_endpoint,
            "healthz-bind-address" => &mut flags.settings.healthz_bind_address,
            "pod-manifest-path" => &mut flags.settings.static_pod_path,
            "config" => &mut flags.config,
            "config-dir" => &mut flags.config_dir,
            "kubeconfig" => &mut flags.kubeconfig,
            "healthz-port" => {
                let value = joined.or_else(|| arguments.next().cloned());
                flags.settings.healthz_port = value.and_then(|value| value.parse().ok());
                continue;
            }
            _ => continue,
        };
        *slot = joined.or_else(|| arguments.next().cloned());
    }
    flags
}

/// Reads a KubeletConfiguration file or a drop-in of one.
///
/// # Errors
/// It is not one YAML or JSON document of the right shape.
pub fn configuration(file: &str, bytes: &[u8]) -> Result<Settings, KubeletError> {
    let wrong = |text: String| KubeletError::Configuration { file: file.to_owned(), text };
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("found no UTF-8".to_owned()))?;
    match yaml::documents(text).as_slice() {
        [] => Ok(Settings::default()),
        [document] => document.read().map_err(|fault| wrong(format!("line {}: {}", fault.line, fault.text))),
        several => Err(wrong(format!("found {} documents", several.len()))),
    }
}

/// Whether the kubelet reads a file of its drop-in folder; it does so in the order of their names.
pub fn is_drop_in(name: &str) -> bool {
    name.ends_with(".conf")
}

/// All together, as the kubelet puts them: a flag wins over drop-ins, a later drop-in over an earlier one and over the
/// file.
pub fn effective(
    flags: Settings,
    file: Settings,
    drop_ins_in_order: impl IntoIterator<Item = Settings>,
) -> Settings {
    flags.or(drop_ins_in_order.into_iter().fold(file, |before, later| later.or(before)))
}

/// A socket's path as the kubelet takes it: `unix:///path`, or a bare path (deprecated).
///
/// # Errors
/// It is neither.
pub fn socket(endpoint: &str) -> Result<String, KubeletError> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    let endpoint = crate::config::Endpoint::parse(&format!("unix://{path}"))
        .map_err(|why| KubeletError::Endpoint(format!("{}: {why}", quoted(endpoint))))?;
    Ok(endpoint.path().display().to_string())
}

/// The version a kubelet, k3s or RKE2 says of itself: `Kubernetes v1.31.2`, `k3s version v1.31.2+k3s1 (…)`.
pub fn version(said: &str) -> Option<(u32, u32)> {
    said.split_whitespace().find_map(|word| {
        let mut parts = word.strip_prefix('v')?.split('.');
        let digits = |part: &str| part.parse().ok();
        Some((digits(parts.next()?)?, digits(parts.next()?)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_last_of_equal_flags_wins_in_either_form() {
        let line = "kubelet --config=/a --container-runtime-endpoint=unix:///a.sock --v=2 \
                    --container_runtime_endpoint unix:///b.sock --healthz-port 0 --config-dir /d";
        let flags = flags(&arguments(line));
        assert_eq!(flags.settings.container_runtime_endpoint.as_deref(), Some("unix:///b.sock"));
        assert_eq!((flags.config.as_deref(), flags.config_dir.as_deref()), (Some("/a"), Some("/d")));
        assert_eq!(flags.settings.healthz_port, Some(0));
        assert_eq!(flags.settings.image_service_endpoint, None);
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_defaults() {
        let file = configuration("f", b"kind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix:///f.sock\nhealthzPort: 1\nfailSwapOn: false\n");
        let of = |line: &str| flags(&arguments(line)).settings.or(file.clone().unwrap()).endpoints();
        assert_eq!(of("kubelet"), ("unix:///f.sock".to_owned(), "unix:///f.sock".to_owned()));
        let flagged = of("kubelet --image-service-endpoint=unix:///i.sock");
        assert_eq!(flagged, ("unix:///f.sock".to_owned(), "unix:///i.sock".to_owned()));
        assert_eq!(Settings::default().endpoints().0, DEFAULT_ENDPOINT);
        let empty = Settings { container_runtime_endpoint: Some(String::new()), ..Settings::default() };
        assert_eq!(empty.or(file.clone().unwrap()).endpoints().0, "unix:///f.sock");
    }

    #[test]
    fn json_is_read_too_and_a_bad_file_is_named() {
        let json =
            configuration("f", br#"{"kind":"KubeletConfiguration","imageServiceEndpoint":"unix:///i"}"#);
        assert_eq!(json.unwrap().image_service_endpoint.as_deref(), Some("unix:///i"));
        let error = configuration("/x/config.yaml", b"a: 1\nhealthzPort: b\n").unwrap_err().to_string();
        assert!(error.contains("/x/config.yaml") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_later_drop_in_wins_over_an_earlier_one_and_a_flag_over_all() {
        let of = |endpoint: &str| Settings {
            container_runtime_endpoint: Some(format!("unix:///{endpoint}")),
            ..Settings::default()
        };
        let drop_ins = || [of("10"), Settings::default(), of("20"), Settings::default()];
        let runtime = |flags| effective(flags, of("file"), drop_ins()).endpoints().0;
        assert_eq!(runtime(Settings::default()), "unix:///20");
        assert_eq!(runtime(of("flag")), "unix:///flag");
        assert_eq!(effective(Settings::default(), of("file"), []).endpoints().0, "unix:///file");
    }

    #[test]
    fn healthz_is_where_the_kubelet_was_told() {
        let at = |port, address: Option<&str>| {
            Settings {
                healthz_port: port,
                healthz_bind_address: address.map(str::to_owned),
                ..Settings::default()
            }
            .healthz()
            .map(|address| address.to_string())
        };
        assert_eq!(at(None, None).as_deref(), Some("127.0.0.1:10248"));
        assert_eq!(at(Some(0), None), None);
        assert_eq!(at(Some(7), Some("0.0.0.0")).as_deref(), Some("127.0.0.1:7"));
    }

    #[test]
    fn sockets_and_versions() {
        assert_eq!(socket("unix:///run/a.sock").unwrap(), "/run/a.sock");
        assert_eq!(socket("/run/a.sock").unwrap(), "/run/a.sock");
        assert!(socket("tcp://1.2.3.4:5").unwrap_err().to_string().contains("tcp://"));
        assert_eq!(version("Kubernetes v1.31.2\n"), Some((1, 31)));
        assert_eq!(version("k3s version v1.30.4+k3s1 (abc)\ngo version go1.22"), Some((1, 30)));
        assert_eq!(version("rke2 version v1.33.0-rc1+rke2r1 (x)"), Some((1, 33)));
        assert_eq!(version("command not found"), None);
    }
}
