//! Whose code a Go frame is, by what the build says of its modules.

use super::buildinfo::BuildInfo;
use crate::symbols::blame::Origin;

/// Hosts of which the first part of a path is a user and the second a repository.
const FORGES: [&str; 4] = ["github.com", "gitlab.com", "bitbucket.org", "codeberg.org"];

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
    let vendored = package.rfind("/vendor/");
    let path = vendored
        .and_then(|i| package.get(i + "/vendor/".len()..))
        .unwrap_or(&package);
    let within = |module: &str| {
        !module.is_empty()
            && path
                .strip_prefix(module)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if package == "main" || (!info.main_package.is_empty() && package == info.main_package) {
        return Origin::Own;
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
        (Some(_), _) => Origin::Own,
        (None, Some(_)) => Origin::Dependency,
        (None, None) if !info.main_module.is_empty() => Origin::System,
        // Built without modules: what lies beside the main package is the program's own.
        (None, None) if within(root(&info.main_package)) && vendored.is_none() => Origin::Own,
        (None, None) if vendored.is_some() || has_domain(path) => Origin::Dependency,
        (None, None) => Origin::System,
    }
}

/// The part of a package's path that names its repository, or the program where no host is named.
fn root(package: &str) -> &str {
    let host = package.split('/').next().unwrap_or_default();
    let parts = match host {
        // what `go build file.go` is called
        "command-line-arguments" => return "",
        host if FORGES.contains(&host) => 3,
        host if host.contains('.') => 2,
        _ => 1,
    };
    let end = package.match_indices('/').nth(parts - 1);
    end.map_or(package, |(at, _)| package.get(..at).unwrap_or(package))
}

fn has_domain(package: &str) -> bool {
    package.split('/').next().is_some_and(|d| d.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::super::buildinfo::{BuildInfo, Module};
    use super::{Origin, origin, package};

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
            ("main.main", Origin::Own),
            ("shop.example/app/store.(*S).Get", Origin::Own),
            ("shop.example/application.F", Origin::System),
            ("shop.example/app/sub/x.F", Origin::Dependency),
            ("github.com/a/b/v2.F", Origin::Dependency),
            (
                "shop.example/app/vendor/github.com/a/b.F",
                Origin::Dependency,
            ),
            ("net/http.(*Client).do", Origin::System),
        ] {
            assert_eq!(origin(&info, function), expected, "{function}");
        }
    }

    #[test]
    fn without_modules_the_main_package_tells() {
        let old = |main_package: &str| BuildInfo {
            version: "go1.20".to_owned(),
            main_package: main_package.to_owned(),
            ..BuildInfo::default()
        };
        let on_forge = old("github.com/me/app/cmd/web");
        let elsewhere = old("shop.example/app/cmd/web");
        let local = old("app/cmd/web");
        let file = old("command-line-arguments");
        for (info, function, expected) in [
            (&on_forge, "main.main", Origin::Own),
            (&on_forge, "github.com/me/app/store.Get", Origin::Own),
            (&on_forge, "github.com/me/other.Get", Origin::Dependency),
            (
                &on_forge,
                "github.com/me/app/vendor/github.com/lib/pq.Open",
                Origin::Dependency,
            ),
            (&on_forge, "net/http.send", Origin::System),
            (&elsewhere, "shop.example/app/store.Get", Origin::Own),
            (&elsewhere, "shop.example/wire.Get", Origin::Dependency),
            (&local, "app/store.Get", Origin::Own),
            (&local, "vendor/golang.org/x/net/idna.To", Origin::System),
            (&local, "github.com/lib/pq.Open", Origin::Dependency),
            (&file, "main.fetch", Origin::Own),
            (&file, "github.com/lib/pq.Open", Origin::Dependency),
            (&file, "net/http.send", Origin::System),
        ] {
            assert_eq!(origin(info, function), expected, "{function}");
        }
    }
}
