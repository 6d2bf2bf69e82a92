//! Which user children run as: PostgreSQL refuses root, and a vendor's script should not have it.

/// An account of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Numeric user.
    pub uid: u32,
    /// Its first group.
    pub gid: u32,
    /// Home folder.
    pub home: String,
}

/// The account that children run as when we are root: `postgres` if there is one, otherwise `nobody`. None when
/// we are an ordinary user, who cannot become another one and need not.
#[must_use]
pub fn unprivileged_user() -> Option<User> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    ["postgres", "nobody"].into_iter().find_map(|name| account(&passwd, name)).filter(|user| user.uid != 0)
}

fn account(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [login, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        (*login == name).then_some(())?;
        Some(User {
            name: name.to_owned(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: (*home).to_owned(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{User, account};

    #[test]
    fn accounts_are_read_field_by_field() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\nbroken\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/sh\n";
        let expected =
            User { name: "postgres".into(), uid: 101, gid: 104, home: "/var/lib/postgresql".into() };
        assert_eq!(account(passwd, "postgres"), Some(expected));
        assert_eq!(account(passwd, "nobody"), None);
    }
}
