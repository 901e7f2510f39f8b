//! Enum values of the console protocol by name in JSON: `"READY"`, not `2`.
//!
//! A value this build does not know is written as its number, and both forms are read, so a recording
//! made by a newer daemon still plays.

use serde::{Deserialize, Deserializer, Serializer};

#[derive(Deserialize)]
#[serde(untagged)]
enum NameOrNumber {
    Name(String),
    Number(i32),
}

macro_rules! by_name {
    ($module:ident, $enum:ty) => {
        pub(crate) mod $module {
            use super::*;

            pub(crate) fn serialize<S: Serializer>(value: &i32, out: S) -> Result<S::Ok, S::Error> {
                match <$enum>::try_from(*value) {
                    Ok(known) => out.serialize_str(known.as_str_name()),
                    Err(_) => out.serialize_i32(*value),
                }
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<i32, D::Error> {
                match NameOrNumber::deserialize(input)? {
                    NameOrNumber::Number(value) => Ok(value),
                    NameOrNumber::Name(name) => <$enum>::from_str_name(&name)
                        .map(i32::from)
                        .ok_or_else(|| serde::de::Error::custom(format!("unknown value {name:?}"))),
                }
            }
        }
    };
}

by_name!(observer_state, crate::console::observer::State);
by_name!(pod_state, crate::console::pod::State);
by_name!(owner, crate::console::namespace::Owner);
by_name!(sysfs_verdict, crate::console::sysfs::Verdict);
by_name!(check_verdict, crate::console::check::Verdict);
by_name!(doctor_verdict, crate::console::doctor_check::Verdict);
by_name!(container_state, crate::console::container::State);
by_name!(severity, crate::console::event::Severity);
by_name!(namespace_state, crate::console::host_namespace::State);
