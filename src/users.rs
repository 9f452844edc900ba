//! User names, from /etc/passwd: users of other databases cannot be the vetter's.

use crate::limits;

/// Why a user name has no IDs.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// Not listed.
    #[error(
        "expected user {0} in /etc/passwd, found none; create it (systemd/sysusers.d/crivet.conf) or leave out vetterUser"
    )]
    None(String),
    /// No such file, or not readable.
    #[error("/etc/passwd cannot be read: {0}")]
    Unreadable(String),
}

/// The user and group ID of a user.
pub fn find(name: &str) -> Result<(u32, u32), UserError> {
    let passwd =
        std::fs::read("/etc/passwd").map_err(|error| UserError::Unreadable(error.kind().to_string()))?;
    let passwd = String::from_utf8_lossy(passwd.get(..limits::PASSWD_BYTES).unwrap_or(&passwd));
    in_passwd(&passwd, name).ok_or_else(|| UserError::None(name.to_owned()))
}

/// passwd(5): `name:password:UID:GID:…`
pub(crate) fn in_passwd(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        let (_, uid, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((uid.parse().ok()?, gid.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\ncrivet:x:990:989::/:/usr/sbin/nologin\nbad:x:a:b\n";

    #[test]
    fn a_listed_user() {
        assert_eq!(in_passwd(PASSWD, "crivet"), Some((990, 989)));
    }

    #[test]
    fn a_user_that_is_not_listed() {
        for name in ["", "criv", "x", "crivet2", "bad"] {
            assert_eq!(in_passwd(PASSWD, name), None, "{name}");
        }
    }
}
