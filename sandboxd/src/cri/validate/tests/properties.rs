//! Whatever is asked.

use super::*;

proptest! {
    /// Taken exactly when the kernel takes it: the line's end does not wrap.
    #[test]
    fn any_single_line(host: u32, length: u32) {
        let fits = length > 0 && u64::from(host) + u64::from(length) <= u64::from(u32::MAX);
        let result = mapped(userns(vec![map(0, host, length)]));
        prop_assert_eq!(result.is_ok(), fits);
        if let Ok(spec) = result {
            let user = spec.namespaces.user.expect("userns");
            prop_assert_eq!(user.host_root(), (host, host));
            prop_assert_eq!(user.host_uid(length - 1), Some(host + (length - 1)));
            prop_assert_eq!(user.host_gid(length), None);
        }
    }

    /// An id passes exactly when the pod maps it.
    #[test]
    fn ids_must_be_mapped(length in 1u32..200_000, id in 0i64..400_000) {
        let mut c = config();
        options(&mut c).userns_options = Some(userns(vec![map(0, 100_000, length)]));
        context(&mut c).run_as_user = Some(cri::Int64Value { value: id });
        prop_assert_eq!(validate(c).is_ok(), id < i64::from(length));
    }

    /// No sysctl outside the pod's namespaces passes, however it is spelled.
    #[test]
    fn only_namespaced_sysctls(words in prop::collection::vec("(net|kernel|vm|user|fs|sem|shmmax|\\.\\.|\\.|ipv4|x/y|)", 1..5), slash: bool) {
        let name = words.join(if slash { "/" } else { "." });
        let mut c = config();
        linux(&mut c).sysctls.insert(name, "1".into());
        if let Ok(spec) = validate(c) {
            for name in spec.sysctls.keys() {
                // '.' joins directories, '/' stands for a '.' in a name.
                let path: String = name.chars().map(|c| match c { '.' => '/', '/' => '.', c => c }).collect();
                prop_assert!(path.split('/').all(|p| !p.is_empty() && p != "." && p != ".."), "{}", path);
                prop_assert!(path.starts_with("net/") || path == "kernel/sem" || path == "kernel/shmmax", "{}", path);
            }
        }
    }

    /// Whatever is refused, the words stay readable.
    #[test]
    fn errors_are_bounded(hostname in ".{0,3000}") {
        let mut c = config();
        c.hostname = hostname;
        if let Err(error) = validate(c) {
            prop_assert!(error.to_string().len() < 600);
        }
    }
}
