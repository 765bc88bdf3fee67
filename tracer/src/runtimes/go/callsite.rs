//! Whose code a Go frame is, and which frame to blame.

use super::buildinfo::BuildInfo;

/// Whose code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The program's own: the main module.
    Application,
    /// A module it depends on.
    Dependency,
    /// The standard library and the runtime.
    Standard,
}

/// Import path of a function's package: `net/http` of `net/http.(*Client).Do`.
#[must_use]
pub fn package(function: &str) -> String {
    // Type arguments may hold other packages' paths.
    let plain = function.split('[').next().unwrap_or(function);
    let last = plain.rfind('/').map_or(0, |i| i + 1);
    let end = plain
        .get(last..)
        .and_then(|name| name.find('.'))
        .map_or(plain.len(), |i| last + i);
    // The linker escapes dots of the last path element.
    plain
        .get(..end)
        .unwrap_or(plain)
        .replace("%2e", ".")
        .replace("%2E", ".")
}

/// Whose code a function is.
#[must_use]
pub fn origin(info: &BuildInfo, function: &str) -> Origin {
    let package = package(function);
    let package = package
        .rfind("/vendor/")
        .and_then(|i| package.get(i + "/vendor/".len()..))
        .unwrap_or(&package);
    let within = |module: &str| {
        !module.is_empty()
            && package
                .strip_prefix(module)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if package == "main" || (!info.main_package.is_empty() && package == info.main_package) {
        return Origin::Application;
    }
    // A dependency can live below the main module's path (a monorepo), so the longest match wins.
    let dependency = info
        .dependencies
        .iter()
        .map(|m| m.path.as_str())
        .filter(|m| within(m))
        .map(str::len)
        .max();
    let own = within(&info.main_module).then_some(info.main_module.len());
    match (own, dependency) {
        (Some(own), Some(dependency)) if dependency > own => Origin::Dependency,
        (Some(_), _) => Origin::Application,
        (None, Some(_)) => Origin::Dependency,
        // Without a module list (other build systems) only a domain name tells it apart.
        (None, None)
            if info.main_module.is_empty()
                && package.split('/').next().is_some_and(|d| d.contains('.')) =>
        {
            Origin::Application
        }
        (None, None) => Origin::Standard,
    }
}

/// Index of the function to blame among frames, innermost first: the innermost one of the main
/// module, else the innermost one of a dependency.
#[must_use]
pub fn blame<'a>(info: &BuildInfo, functions: impl IntoIterator<Item = &'a str>) -> Option<usize> {
    let mut dependency = None;
    for (i, function) in functions.into_iter().enumerate() {
        match origin(info, function) {
            Origin::Application => return Some(i),
            Origin::Dependency => dependency = dependency.or(Some(i)),
            Origin::Standard => {}
        }
    }
    dependency
}

#[cfg(test)]
mod tests {
    use super::super::buildinfo::{BuildInfo, Module};
    use super::{Origin, blame, origin, package};

    fn info() -> BuildInfo {
        BuildInfo {
            version: "go1.27.3".to_owned(),
            main_package: "shop.example/app/cmd/web".to_owned(),
            main_module: "shop.example/app".to_owned(),
            dependencies: ["github.com/a/b", "shop.example/app/sub"]
                .map(|path| Module {
                    path: path.to_owned(),
                    version: String::new(),
                })
                .into(),
            settings: Vec::new(),
        }
    }

    #[test]
    fn package_of_methods_closures_and_generics() {
        assert_eq!(package("net/http.(*Client).Do"), "net/http");
        assert_eq!(package("main.main.func1"), "main");
        assert_eq!(package("main.Map[go.shape.int,github.com/x/y.T]"), "main");
        assert_eq!(package("gopkg.in/yaml%2ev3.Marshal"), "gopkg.in/yaml.v3");
        assert_eq!(package("runtime.main"), "runtime");
        assert_eq!(package(""), "");
    }

    #[test]
    fn origin_goes_by_module() {
        let info = info();
        for (function, expected) in [
            ("main.main", Origin::Application),
            ("shop.example/app/store.(*S).Get", Origin::Application),
            ("shop.example/application.F", Origin::Standard),
            ("shop.example/app/sub/x.F", Origin::Dependency),
            ("github.com/a/b/v2.F", Origin::Dependency),
            (
                "shop.example/app/vendor/github.com/a/b.F",
                Origin::Dependency,
            ),
            ("net/http.(*Client).do", Origin::Standard),
        ] {
            assert_eq!(origin(&info, function), expected, "{function}");
        }
    }

    #[test]
    fn blames_own_code_before_a_dependency() {
        let info = info();
        let stack = [
            "net/http.send",
            "github.com/a/b.Get",
            "main.poll",
            "main.main",
        ];
        assert_eq!(blame(&info, stack), Some(2));
        assert_eq!(
            blame(&info, ["net/http.send", "github.com/a/b.Get"]),
            Some(1)
        );
        assert_eq!(blame(&info, ["net/http.send"]), None);
    }
}
