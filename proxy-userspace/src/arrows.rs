//! Checks that the modules of each crate use each other in one direction only.
//!
//! Cargo keeps circles out between crates; within a crate nothing does. This reads every source file of the crates below
//! `proxy-userspace`, notes which top-level module names which other one (`crate::other`, `super::other`), leaves tests
//! out, and fails on a circle. The crate's root may name all of them, and composes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// For each top-level module those that it uses.
type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_two_modules_use_each_other() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let crates = fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path().join("src"));
    let sources: Vec<PathBuf> = crates.filter(|src| src.is_dir()).chain([top.join("src")]).collect();
    assert!(sources.len() > 5, "the crates are elsewhere than below {}", top.display());
    let circles: Vec<String> = sources
        .iter()
        .filter_map(|src| {
            let circle = circle(&graph(src))?;
            Some(format!("{}: {}", src.display(), circle.join(" -> ")))
        })
        .collect();
    assert!(
        circles.is_empty(),
        "modules use each other in a circle; move what both need below both:\n{}",
        circles.join("\n")
    );
}

fn graph(src: &Path) -> Graph {
    let mut graph = Graph::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            if stem == "tests" || stem == "arrows" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                add_file(&mut graph, src, &path);
            }
        }
    }
    let known: BTreeSet<String> = graph.keys().cloned().collect();
    for (module, used) in &mut graph {
        used.retain(|other| other != module && known.contains(other));
    }
    graph
}

/// Adds what the file names. Its own place tells what its `super` means.
fn add_file(graph: &mut Graph, src: &Path, path: &Path) {
    let below = path.strip_prefix(src).unwrap().with_extension("");
    let place: Vec<&str> = below.iter().map(|part| part.to_str().unwrap()).collect();
    if place == ["lib"] || place == ["main"] {
        return;
    }
    let text = fs::read_to_string(path).unwrap();
    let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let used = graph.entry(place[0].to_owned()).or_default();
    walk(tokens, place.len(), used);
}

/// Notes every `crate::name` and every `super::...::name` that leads to the root, `depth` modules up.
fn walk(tokens: TokenStream, depth: usize, used: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if is_test_only(&tokens[at..]) {
            at += item_length(&tokens[at..]);
            continue;
        }
        match &tokens[at] {
            TokenTree::Group(group) => walk(group.stream(), depth, used),
            TokenTree::Ident(ident) if ident == "crate" => names_after(&tokens[at + 1..], used),
            TokenTree::Ident(ident) if ident == "super" => {
                let mut ups = 1;
                while is_path_to_super(&tokens[at + 1..]) {
                    ups += 1;
                    at += 3;
                }
                if ups == depth {
                    names_after(&tokens[at + 1..], used);
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// Whether an item begins here that is compiled for tests only.
fn is_test_only(tokens: &[TokenTree]) -> bool {
    let [TokenTree::Punct(hash), TokenTree::Group(attribute), ..] = tokens else { return false };
    let text = attribute.stream().to_string();
    hash.as_char() == '#' && text.starts_with("cfg") && text.contains("test") && !text.contains("not")
}

/// The tokens of the item, up to its block or its semicolon.
fn item_length(tokens: &[TokenTree]) -> usize {
    let ends = |token: &TokenTree| match token {
        TokenTree::Punct(punct) => punct.as_char() == ';',
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        _ => false,
    };
    tokens.iter().skip(2).position(ends).map_or(tokens.len(), |end| end + 3)
}

fn is_path_to_super(tokens: &[TokenTree]) -> bool {
    after_colons(tokens).is_some_and(|rest| matches!(rest.first(), Some(TokenTree::Ident(ident)) if ident == "super"))
}

/// What follows `::`.
fn after_colons(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    let [TokenTree::Punct(first), TokenTree::Punct(second), rest @ ..] = tokens else { return None };
    (first.as_char() == ':' && second.as_char() == ':').then_some(rest)
}

/// Adds the name behind `::`, or all of those of a `::{a, b::c}`.
fn names_after(tokens: &[TokenTree], used: &mut BTreeSet<String>) {
    match after_colons(tokens).and_then(<[TokenTree]>::first) {
        Some(TokenTree::Ident(ident)) => {
            used.insert(ident.to_string());
        }
        Some(TokenTree::Group(group)) => {
            let mut begins = true;
            for token in group.stream() {
                match token {
                    TokenTree::Ident(ident) if begins => {
                        used.insert(ident.to_string());
                        begins = false;
                    }
                    TokenTree::Punct(punct) if punct.as_char() == ',' => begins = true,
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// Modules that use each other, the first of them again at the end; none if there are no such.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    graph.keys().find_map(|start| {
        let mut path = vec![start.clone()];
        leads_back(graph, start, &mut path, &mut BTreeSet::new()).then_some(path)
    })
}

fn leads_back(graph: &Graph, start: &str, path: &mut Vec<String>, seen: &mut BTreeSet<String>) -> bool {
    let last = path[path.len() - 1].clone();
    for next in &graph[&last] {
        if next == start {
            path.push(next.clone());
            return true;
        }
        if seen.insert(next.clone()) {
            path.push(next.clone());
            if leads_back(graph, start, path, seen) {
                return true;
            }
            path.pop();
        }
    }
    false
}

#[test]
fn what_is_used_is_seen() {
    let used = |text: &str, depth: usize| {
        let mut used = BTreeSet::new();
        walk(text.parse().unwrap(), depth, &mut used);
        used.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(used("use crate::{a::B, c}; fn f() { crate::d::e(); select! { crate::g::h() } }", 1), "a c d g");
    assert_eq!(used("use super::a; use super::super::b::C;", 2), "b");
    assert_eq!(used("#[cfg(test)] mod tests { use crate::a; } use crate::b;", 1), "b");
    assert_eq!(used("#[cfg(test)] use crate::a; #[cfg(not(test))] use crate::b;", 1), "b");
    let graph = |edges: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph.entry((*to).to_owned()).or_default();
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        circle(&graph).map(|circle| circle.join(" "))
    };
    assert_eq!(graph(&[("a", "b"), ("b", "c"), ("a", "c")]), None);
    assert_eq!(graph(&[("a", "b"), ("b", "c"), ("c", "b")]).as_deref(), Some("b c b"));
}
