//! Where the engine is: a socket of this machine, in the order in which people expect it.

use super::super::super::MirrorError;

/// Docker's own socket.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// Podman's socket for everybody: asked so that whoever has no other engine is told why it is none.
const PODMAN_SOCKET: &str = "/run/podman/podman.sock";

/// Addresses to try, in the form of `DOCKER_HOST`: what that variable says and nothing else, or the sockets that
/// are there.
pub(super) fn candidates(variable: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, MirrorError> {
    let given = |name| variable(name).filter(|value| !value.is_empty());
    if let Some(host) = given("DOCKER_HOST") {
        return if is_local(&host) { Ok(vec![host]) } else { Err(elsewhere(&host)) };
    }
    let podman_of_user = given("XDG_RUNTIME_DIR").map(|folder| format!("{folder}/podman/podman.sock"));
    let sockets = [Some(DOCKER_SOCKET.to_owned()), podman_of_user, Some(PODMAN_SOCKET.to_owned())];
    let there = sockets.into_iter().flatten().filter(|socket| std::path::Path::new(socket).exists());
    Ok(there.map(|socket| format!("unix://{socket}")).collect())
}

fn elsewhere(host: &str) -> MirrorError {
    MirrorError::new(
        format!("DOCKER_HOST is {host}, which is not an engine of this machine"),
        "sockets and bind mounts need a local one: unset DOCKER_HOST, or set it to unix:///path/of/its.sock",
    )
}

/// Whether an address is a socket or a loopback port of this machine.
fn is_local(host: &str) -> bool {
    if host.starts_with("unix://") {
        return true;
    }
    let Some(rest) = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://")) else {
        return false;
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let name = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::candidates;

    /// The addresses for a value of `DOCKER_HOST`; none when it is refused.
    fn given(host: &str) -> Option<Vec<String>> {
        candidates(|name| (name == "DOCKER_HOST").then(|| host.to_owned())).ok()
    }

    #[test]
    fn a_local_engine_is_taken_as_it_is_named() {
        for host in [
            "unix:///tmp/a.sock",
            "tcp://127.0.0.1:2375",
            "tcp://localhost:2375",
            "http://127.0.0.9:1/",
            "tcp://[::1]:2375",
        ] {
            assert_eq!(given(host), Some(vec![host.to_owned()]));
        }
    }

    #[test]
    fn an_engine_elsewhere_is_refused_with_the_remedy() {
        for host in [
            "ssh://me@build",
            "tcp://10.0.0.3:2375",
            "tcp://127.0.0.1.example:2375",
            "https://127.0.0.1",
            "build",
        ] {
            assert_eq!(given(host), None, "{host}");
        }
        let error = candidates(|_| Some("ssh://me@build".to_owned())).unwrap_err().to_string();
        assert!(error.contains("ssh://me@build") && error.contains("unset DOCKER_HOST"), "{error}");
    }

    #[test]
    fn the_users_podman_socket_counts_when_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = folder.path().display().to_string();
        let all = |runtime: &str| {
            candidates(|name| (name == "XDG_RUNTIME_DIR").then(|| runtime.to_owned())).unwrap()
        };
        let socket = format!("unix://{runtime}/podman/podman.sock");
        assert!(!all(&runtime).contains(&socket));
        std::fs::create_dir(folder.path().join("podman")).unwrap();
        std::fs::write(folder.path().join("podman/podman.sock"), "").unwrap();
        assert!(all(&runtime).contains(&socket));
    }
}
