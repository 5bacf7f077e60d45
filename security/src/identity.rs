//! What a certificate says about its holder: one URI among its subject alternative names.

use std::fmt;
use std::str::FromStr;

const SCHEME: &str = "moorhouse://";
/// Longest warehouse or holder name, in bytes.
const NAME_BYTES: usize = 63;

/// `moorhouse://WAREHOUSE/ROLE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    warehouse: String,
    role: Role,
}

/// What the holder is, with its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Role {
    Controller(String),
    /// The name is the node's.
    Agent(String),
    Gateway(String),
    /// An operator who may change things.
    Admin(String),
    /// An operator who may look.
    Viewer(String),
}

/// A role without its holder: what rules speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RoleKind {
    Controller,
    Agent,
    Gateway,
    Admin,
    Viewer,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    #[error("{0:?} is no identity: it looks like moorhouse://WAREHOUSE/ROLE/NAME")]
    Shape(String),
    #[error("{0:?} is no role: use controller, agent, gateway, admin or viewer")]
    Role(String),
    #[error("{0:?} is no name: 1 to {NAME_BYTES} letters, digits, '.', '_' and '-', beginning with a letter or digit")]
    Name(String),
}

impl RoleKind {
    pub const ALL: [Self; 5] = [Self::Controller, Self::Agent, Self::Gateway, Self::Admin, Self::Viewer];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Agent => "agent",
            Self::Gateway => "gateway",
            Self::Admin => "admin",
            Self::Viewer => "viewer",
        }
    }
}

impl fmt::Display for RoleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RoleKind {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| InvalidIdentity::Role(text.to_owned()))
    }
}

impl Role {
    fn of(kind: RoleKind, name: String) -> Self {
        match kind {
            RoleKind::Controller => Self::Controller(name),
            RoleKind::Agent => Self::Agent(name),
            RoleKind::Gateway => Self::Gateway(name),
            RoleKind::Admin => Self::Admin(name),
            RoleKind::Viewer => Self::Viewer(name),
        }
    }

    pub fn kind(&self) -> RoleKind {
        match self {
            Self::Controller(_) => RoleKind::Controller,
            Self::Agent(_) => RoleKind::Agent,
            Self::Gateway(_) => RoleKind::Gateway,
            Self::Admin(_) => RoleKind::Admin,
            Self::Viewer(_) => RoleKind::Viewer,
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Controller(name)
            | Self::Agent(name)
            | Self::Gateway(name)
            | Self::Admin(name)
            | Self::Viewer(name) => name,
        }
    }
}

impl Identity {
    pub fn new(warehouse: &str, kind: RoleKind, name: &str) -> Result<Self, InvalidIdentity> {
        Ok(Self { warehouse: checked(warehouse)?, role: Role::of(kind, checked(name)?) })
    }

    pub fn warehouse(&self) -> &str {
        &self.warehouse
    }

    pub fn role(&self) -> &Role {
        &self.role
    }

    /// `agent/etl-0`: enough within one warehouse.
    pub fn short(&self) -> String {
        format!("{}/{}", self.role.kind(), self.role.name())
    }
}

fn checked(name: &str) -> Result<String, InvalidIdentity> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && name.len() <= NAME_BYTES && name.bytes().all(fits) {
        return Ok(name.to_owned());
    }
    Err(InvalidIdentity::Name(name.to_owned()))
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.warehouse, self.role.kind(), self.role.name())
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let shape = || InvalidIdentity::Shape(text.to_owned());
        let rest = text.strip_prefix(SCHEME).ok_or_else(shape)?;
        let fields: Vec<&str> = rest.split('/').collect();
        let [warehouse, kind, name] = fields[..] else { return Err(shape()) };
        Self::new(warehouse, kind.parse()?, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_text() {
        for kind in RoleKind::ALL {
            let identity = Identity::new("prod", kind, "etl-0").expect("valid");
            assert_eq!(identity.to_string().parse::<Identity>(), Ok(identity));
        }
    }

    #[test]
    fn nothing_else_is_taken_for_one() {
        for text in [
            "",
            "spiffe://prod/agent/etl-0",
            "moorhouse://prod/agent",
            "moorhouse://prod/agent/etl-0/admin",
            "moorhouse://prod/root/etl-0",
            "moorhouse:///agent/etl-0",
            "moorhouse://prod/agent/",
            "moorhouse://prod/agent/etl 0",
            "moorhouse://prod/agent/..",
            "moorhouse://prod/Agent/etl-0",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }
}
