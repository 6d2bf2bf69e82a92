//! What the recorder needs of the server, as plain (name, value) pairs and statements.
//!
//! The mirror puts the settings into the cluster before it starts and runs the statements once the roles exist.

/// Longest statement that the activity view keeps, bytes; long migrations must stay recognisable.
const ACTIVITY_QUERY_BYTES: &str = "16kB";

/// Lock waits of the application's roles that are longer than this reach the server's log, milliseconds.
pub const APPLICATION_DEADLOCK_TIMEOUT_MS: u32 = 20;

/// Those of [`cluster_settings`] that a running server does not take.
#[must_use]
pub fn start_settings() -> Vec<(&'static str, &'static str)> {
    let at_start =
        |(name, _): &(&str, &str)| ["logging_collector", "track_activity_query_size"].contains(name);
    cluster_settings().into_iter().filter(at_start).collect()
}

/// Settings of the cluster, name and value. Some need a start of the server, not only a reload.
#[must_use]
pub fn cluster_settings() -> Vec<(&'static str, &'static str)> {
    vec![
        ("logging_collector", "on"),
        ("log_destination", "jsonlog"),
        ("log_directory", "log"),
        ("log_filename", "postgresql-%Y-%m-%d_%H%M%S.log"),
        ("log_file_mode", "0640"),
        ("log_rotation_age", "0"),
        ("log_rotation_size", "64MB"),
        ("log_truncate_on_rotation", "off"),
        // The parser reads one zone only, so that no table of zones can be wrong.
        ("log_timezone", "UTC"),
        ("lc_messages", "C"),
        ("log_lock_waits", "on"),
        ("log_connections", "on"),
        ("log_disconnections", "on"),
        ("log_hostname", "off"),
        ("log_min_messages", "warning"),
        ("log_min_error_statement", "error"),
        ("log_error_verbosity", "default"),
        ("log_duration", "off"),
        // DDL by the application's own role bounds what a hard-coded credential does.
        ("log_statement", "ddl"),
        ("track_activities", "on"),
        ("track_activity_query_size", ACTIVITY_QUERY_BYTES),
    ]
}

/// Statements that make the roles' sessions observable; run them as a superuser.
///
/// `deadlock_timeout` is lowered for the application's roles only: it also decides when blocked DDL cancels
/// autovacuum and who loses a deadlock, so the package's role keeps production's value.
#[must_use]
pub fn role_statements(package_role: &str, application_roles: &[&str]) -> Vec<String> {
    let package = quote_identifier(package_role);
    let mut statements = vec![
        format!("ALTER ROLE {package} SET log_statement = 'all'"),
        format!("ALTER ROLE {package} SET log_min_duration_statement = 0"),
    ];
    statements.extend(application_roles.iter().map(|role| {
        format!(
            "ALTER ROLE {} SET deadlock_timeout = '{APPLICATION_DEADLOCK_TIMEOUT_MS}ms'",
            quote_identifier(role)
        )
    }));
    statements
}

fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::role_statements;

    #[test]
    fn only_application_roles_get_the_low_deadlock_timeout() {
        let statements = role_statements("pkg", &["app", "odd\"name"]);
        let timeouts: Vec<_> = statements.iter().filter(|text| text.contains("deadlock_timeout")).collect();
        assert_eq!(timeouts.len(), 2);
        assert!(timeouts.iter().all(|text| !text.contains("\"pkg\"")));
        assert!(timeouts[1].contains("\"odd\"\"name\""));
    }
}
