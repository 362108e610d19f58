//! Who is at the keyboard: the user, the login behind it, and who called sudo. All three are recorded, and none of them
//! may approve what they do.

use std::collections::BTreeSet;

use nix::unistd::{Uid, User};
use serde::Serialize;

use super::policy::Policy;

/// The kernel's value for "no login".
const NO_LOGIN: u32 = u32::MAX;

/// The person who runs the command, as far as the system knows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Operator {
    /// The real user id.
    pub uid: u32,
    /// Its name.
    pub user: Option<String>,
    /// The user id that logged in (`/proc/self/loginuid`); survives su and sudo. `None`: not from a login session.
    pub login_uid: Option<u32>,
    /// Its name.
    pub login: Option<String>,
    /// `SUDO_USER`, as the environment says it.
    pub sudo_user: Option<String>,
}

impl Operator {
    /// Looks it up for this process.
    pub fn now() -> Self {
        let uid = Uid::current();
        let login_uid = std::fs::read_to_string("/proc/self/loginuid")
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok())
            .filter(|uid| *uid != NO_LOGIN);
        Self {
            uid: uid.as_raw(),
            user: name_of(uid),
            login_uid,
            login: login_uid.and_then(|uid| name_of(Uid::from_raw(uid))),
            sudo_user: std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty()),
        }
    }

    /// Every name this person may approve under: the logins themselves and what the policy's map says of them, in
    /// lower case.
    pub fn principals(&self, policy: &Policy) -> BTreeSet<String> {
        [&self.user, &self.login, &self.sudo_user]
            .into_iter()
            .flatten()
            .flat_map(|login| policy.names_of(login))
            .collect()
    }

    /// The name for a person to read: the login behind it all.
    pub fn who(&self) -> String {
        self.login
            .clone()
            .or_else(|| self.sudo_user.clone())
            .or_else(|| self.user.clone())
            .unwrap_or_else(|| format!("uid {}", self.login_uid.unwrap_or(self.uid)))
    }
}

fn name_of(uid: Uid) -> Option<String> {
    User::from_uid(uid).ok().flatten().map(|user| user.name)
}
