//! Users and their groups, from /etc/passwd and /etc/group: a static binary can't load the
//! name services that `getpwnam` may need.

use std::fs;

use super::Failure;

/// Whom to run a command as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// Finds a user by name or number.
///
/// # Errors
/// [`Failure`] (status 2) when there is no such user.
pub fn find(name: &str) -> Result<User, Failure> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = fs::read_to_string("/etc/group").unwrap_or_default();
    parse(name, &passwd, &group).ok_or_else(|| {
        Failure::usage(format!(
            "--user: there is no user `{name}` in /etc/passwd; for users of a directory service \
             give the number (`id -u {name}`)"
        ))
    })
}

fn parse(wanted: &str, passwd: &str, group: &str) -> Option<User> {
    let number: Option<u32> = wanted.parse().ok();
    let entry = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid: u32 = fields.nth(1)?.parse().ok()?;
        let gid: u32 = fields.next()?.parse().ok()?;
        (name == wanted || Some(uid) == number).then_some((name, uid, gid))
    });
    let Some((name, uid, gid)) = entry else {
        // A number needs no entry, as in `docker run --user`.
        return number.map(|uid| User {
            uid,
            gid: uid,
            groups: vec![uid],
        });
    };
    let mut groups = vec![gid];
    for line in group.lines() {
        let mut fields = line.split(':');
        let id = fields.nth(2).and_then(|id| id.parse().ok());
        let member = fields
            .next()
            .is_some_and(|members| members.split(',').any(|member| member == name));
        if let Some(id) = id
            && member
            && id != gid
        {
            groups.push(id);
        }
    }
    Some(User { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken:x\n\
        www:x:33:33:www:/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:\nssl:x:101:other,www\nlog:x:4:wwwx\nbroken\n";

    #[test]
    fn users_come_with_all_their_groups() {
        let www = User {
            uid: 33,
            gid: 33,
            groups: vec![33, 101],
        };
        assert_eq!(parse("www", PASSWD, GROUP), Some(www.clone()));
        assert_eq!(parse("33", PASSWD, GROUP), Some(www));
    }

    #[test]
    fn a_number_needs_no_entry_and_a_name_does() {
        assert_eq!(
            parse("4242", PASSWD, GROUP).map(|user| user.gid),
            Some(4242)
        );
        assert_eq!(parse("nosuch", PASSWD, GROUP), None);
        assert_eq!(parse("", PASSWD, GROUP), None);
    }
}
