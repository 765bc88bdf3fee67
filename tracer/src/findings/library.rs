//! Leaks inside of libraries: the library's own function beside the application's that called it.

use std::collections::BTreeMap;

use super::{Identity, Place, Suspect, program};
use crate::{
    engine::Level,
    model::{Confidence, Frame, Kind, Owner, Site},
    report::{CallSite, CalledBy, LibrarySite},
};

/// Suspects by the id of their finding.
pub type Groups<'a> = BTreeMap<String, Vec<&'a Suspect>>;

/// Folders below which each library has one of its own: what precedes its name, and how many parts
/// of the path the name has.
const FOLDERS: &[(&str, usize)] = &[
    ("/site-packages/", 1),
    ("/dist-packages/", 1),
    ("/node_modules/", 1),
    ("/vendor/bundle/", 1),
    ("/gems/", 1),
    ("/vendor/", 2),
];

/// The library inside of which a connection was opened or asked for, where a frame of its own lies
/// between the application's and the network. Well-known clients are none: they do as they are
/// told.
pub fn library(site: &Site) -> Option<LibrarySite> {
    let end = match site.own {
        true => site.call_site?,
        false => site.frames.len(),
    };
    let of = |index: usize| site.owners.get(index).copied();
    let is_library = |&index: &usize| {
        let frame = site.frames.get(index);
        let named = frame.is_some_and(|frame| !frame.function.contains("+0x"));
        of(index) == Some(Owner::Dependency) && named
    };
    let again = site.again.map(|again| again.frame).filter(is_library);
    let index = again.or_else(|| (0..end).find(is_library))?;
    let frame = site.frames.get(index)?;
    Some(LibrarySite {
        name: name(frame)?,
        frame: frame.clone(),
    })
}

/// One finding for what a library leaks for several call sites of the application: it is the
/// library's function that names it then.
pub fn merged(groups: Groups<'_>) -> Groups<'_> {
    let mut by_library: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (id, group) in &groups {
        if let Some(shared) = group.first().and_then(|suspect| shared_id(suspect)) {
            by_library.entry(shared).or_default().push(id.clone());
        }
    }
    let mut groups = groups;
    for (shared, ids) in by_library.into_iter().filter(|(_, ids)| ids.len() > 1) {
        let parts: Vec<_> = ids.iter().filter_map(|id| groups.remove(id)).collect();
        groups.entry(shared).or_default().extend(parts.concat());
    }
    groups
}

/// Id of what its library leaks, whoever calls it.
fn shared_id(suspect: &Suspect) -> Option<String> {
    let site = suspect.cohort.site.as_deref().filter(|site| site.own)?;
    if suspect.judgement.confidence == Confidence::Low {
        return None;
    }
    let LibrarySite { frame, .. } = library(site)?;
    let identity = Identity {
        level: Level::Leaf,
        place: Some(Place {
            function: frame.function,
            file: frame.file,
            line: frame.line,
            line_in_function: None,
        }),
        ..suspect.identity.clone()
    };
    Some(identity.id(program(&suspect.cohort.process)))
}

/// The application's call sites of suspects, with the connections that each of them leaked.
pub fn callers(group: &[&Suspect]) -> Vec<CalledBy> {
    let mut all: Vec<CalledBy> = Vec::new();
    for suspect in group {
        let site = suspect.cohort.site.as_deref().filter(|site| site.own);
        let Some(frame) = site.and_then(Site::blamed) else {
            continue;
        };
        let count = suspect.judgement.connections.outlived;
        let same = |c: &&mut CalledBy| {
            (&c.function, &c.file, c.line) == (&frame.function, &frame.file, frame.line)
        };
        match all.iter_mut().find(same) {
            Some(known) => known.count += count,
            None => all.push(CalledBy {
                function: frame.function.clone(),
                file: frame.file.clone(),
                line: frame.line,
                count,
            }),
        }
    }
    all.sort_by(|a, b| (b.count, &a.function).cmp(&(a.count, &b.function)));
    all
}

/// Callers of all suspects with one id, and what they made.
pub fn called_by(group: &[&Suspect]) -> Vec<CalledBy> {
    let mut all: Vec<CalledBy> = Vec::new();
    for caller in group.iter().flat_map(|s| &s.called_by) {
        let same = |known: &&mut CalledBy| {
            (&known.function, &known.file, known.line)
                == (&caller.function, &caller.file, caller.line)
        };
        match all.iter_mut().find(same) {
            Some(known) => known.count += caller.count,
            None => all.push(caller.clone()),
        }
    }
    all.sort_by(|a, b| {
        b.count
            .cmp(&a.count)
            .then_with(|| a.function.cmp(&b.function))
    });
    all
}

/// What a finding says of its library; `site` is the application's place, where it is known.
/// `again`: the library was seen to leave an answer open.
pub fn sentence(
    library: &LibrarySite,
    site: Option<&CallSite>,
    called_by: &[CalledBy],
    again: bool,
) -> String {
    let LibrarySite { name, frame } = library;
    let place = at(&frame.function, frame.file.as_deref(), frame.line);
    let site = site.map(|site| at(&site.function, site.file.as_deref(), site.line));
    let callers = called_by.len();
    match site {
        None => format!(
            "It is opened by the library {name} at {place}; no frame of the application's is on the \
             stack."
        ),
        Some(_) if callers > 1 => {
            format!("The line to change is in {name} at {place}: it leaks for {callers} callers.")
        }
        Some(site) if again => {
            format!("The line to change is in {name} at {place}, called from {site}.")
        }
        Some(site) => format!(
            "It is opened inside of {name} at {place}, called from {site}: the change belongs into \
             {name} where that gives its caller nothing to close."
        ),
    }
}

/// A function and its place.
fn at(function: &str, file: Option<&str>, line: Option<u32>) -> String {
    match (file, line) {
        (Some(file), Some(line)) => format!("{function} {file}:{line}"),
        _ => function.to_owned(),
    }
}

/// What own functions between the call site and the network did with the request: asked again in
/// place of its answer, or handed it on.
pub fn within(site: &Site, kind: Kind) -> Option<String> {
    let place = |index: usize| {
        let frame = site.frames.get(index)?;
        Some(at(&frame.function, frame.file.as_deref(), frame.line))
    };
    if let Some(again) = site.again {
        let from = again
            .line
            .map_or_else(String::new, |line| format!(" from line {line}"));
        return Some(format!(
            "{} asked again{from} within the same call, and left this answer open: its caller never \
             gets to see it.",
            place(again.frame)?
        ));
    }
    if !matches!(kind, Kind::ResponseBodyNotClosed | Kind::ResponseNotRead) {
        return None;
    }
    let end = site.call_site.filter(|_| site.own)?;
    let is_own = |owner: &Owner| *owner == Owner::Own;
    let inside = site.owners.get(..end)?;
    let index = inside.iter().position(is_own)?;
    // a client's functions lie between, or it is a mere helper
    if inside.get(index..)?.iter().all(is_own) {
        return None;
    }
    Some(format!(
        "The request goes through {}, which is the application's own, too: an answer that it does not \
         hand to its caller is for it to close.",
        place(index)?
    ))
}

/// Name of the library that a frame is in.
fn name(frame: &Frame) -> Option<String> {
    let file = frame.file.as_deref().unwrap_or_default();
    for (folder, parts) in FOLDERS {
        if let Some((_, rest)) = file.rsplit_once(folder) {
            let parts = match rest.starts_with('@') {
                true => 2,
                false => *parts,
            };
            let all: Vec<&str> = rest.split('/').collect();
            let name = all.get(..parts.min(all.len().saturating_sub(1)).max(1))?;
            let name = name.join("/");
            return Some(name.strip_suffix(".py").unwrap_or(&name).to_owned());
        }
    }
    // Go's packages, and crates of Rust
    if let Some(at) = frame.function.rfind('/') {
        let dot = frame.function.get(at..)?.find('.')?;
        return frame.function.get(..at + dot).map(str::to_owned);
    }
    if let Some((_, rest)) = file.split_once("/registry/src/") {
        return rest.split('/').nth(1).map(str::to_owned);
    }
    let module = frame.module.as_deref()?;
    module.rsplit('/').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{library, name, sentence, within};
    use crate::{
        model::{Again, Frame, Kind, Owner, Site, StackQuality},
        report::{CallSite, CalledBy},
    };

    fn frame(function: &str, file: &str) -> Frame {
        Frame {
            function: function.to_owned(),
            file: Some(file.to_owned()),
            line: Some(7),
            module: None,
            inlined: false,
            address: None,
        }
    }

    fn site(own: bool) -> Site {
        Site {
            frames: vec![
                frame("create_connection", "/usr/lib/python3.13/socket.py"),
                frame("fetch_key", "/venv/lib/site-packages/doorman/keys.py"),
                frame("check", "/srv/shop/login.py"),
            ],
            owners: vec![Owner::Runtime, Owner::Dependency, Owner::Own],
            call_site: Some(if own { 2 } else { 1 }),
            own,
            quality: StackQuality::Complete,
            library: !own,
            own_frames: Vec::new(),
            runs_loop: None,
            line_in_function: None,
            again: None,
        }
    }

    #[test]
    fn the_librarys_function_stands_beside_the_applications() {
        let found = library(&site(true)).map(|l| (l.name, l.frame.function));
        assert_eq!(found, Some(("doorman".to_owned(), "fetch_key".to_owned())));
        // a well-known client between them does as it is told
        let mut client = site(true);
        client.owners[1] = Owner::Client;
        assert_eq!(library(&client), None);
        assert!(library(&site(false)).is_some());
    }

    #[test]
    fn names_are_those_of_packages() {
        for (function, file, expected) in [
            ("f", "/v/lib/python3.13/site-packages/doorman.py", "doorman"),
            ("f", "/v/site-packages/doorman/a/b.py", "doorman"),
            ("f", "/app/node_modules/@acme/keys/index.js", "@acme/keys"),
            ("f", "/app/node_modules/a/node_modules/b/lib/index.js", "b"),
            (
                "f",
                "/usr/lib/gems/doorman-1.2/lib/doorman.rb",
                "doorman-1.2",
            ),
            ("f", "/app/vendor/acme/keys/src/Keys.php", "acme/keys"),
            (
                "example.org/keys/v2.(*C).Get",
                "keys.go",
                "example.org/keys/v2",
            ),
            (
                "k::get",
                "/c/registry/src/index-1/keys-0.3.1/src/lib.rs",
                "keys-0.3.1",
            ),
        ] {
            assert_eq!(
                name(&frame(function, file)).as_deref(),
                Some(expected),
                "{file}"
            );
        }
    }

    #[test]
    fn with_several_callers_the_library_must_change() -> Result<(), &'static str> {
        let found = library(&site(true)).ok_or("no library")?;
        let caller = |function: &str| CalledBy {
            function: function.to_owned(),
            file: None,
            line: None,
            count: 1,
        };
        let own = CallSite {
            function: "check".to_owned(),
            file: Some("login.py".to_owned()),
            line: Some(7),
            module: None,
        };
        let many = sentence(&found, Some(&own), &[caller("a"), caller("b")], false);
        assert!(
            many.starts_with("The line to change is in doorman at fetch_key /venv"),
            "{many}"
        );
        let one = sentence(&found, Some(&own), &[caller("a")], false);
        assert!(one.contains("called from check login.py:7"), "{one}");
        let seen = sentence(&found, Some(&own), &[caller("a")], true);
        assert!(
            seen.starts_with("The line to change is in doorman"),
            "{seen}"
        );
        Ok(())
    }

    #[test]
    fn what_lies_between_call_site_and_network_is_said() {
        let mut passed = site(true);
        let within = |site: &Site| within(site, Kind::ResponseNotRead);
        assert_eq!(within(&passed), None);
        passed.owners[1] = Owner::Own;
        assert_eq!(within(&passed), None, "a helper");
        let client = frame(
            "Session.get",
            "/venv/lib/site-packages/requests/sessions.py",
        );
        passed.frames.insert(2, client);
        passed.owners.insert(2, Owner::Client);
        passed.call_site = Some(3);
        let said = within(&passed).unwrap_or_default();
        assert!(said.contains("goes through fetch_key /venv"), "{said}");
        passed.again = Some(Again {
            frame: 1,
            line: Some(9),
        });
        let said = within(&passed).unwrap_or_default();
        assert!(said.contains("asked again from line 9"), "{said}");
    }
}
