//! Sizes of files and functions, and a module header in every file.
//!
//! A function that is one table (a `match` or a list without logic) may be longer: a comment `// table: why` in the
//! three lines above or on the first lines of it says so.

use cargo_metadata::Metadata;
use syn::{spanned::Spanned, visit::Visit};

use super::{is_test_source, sources};

/// A file longer than this must be split.
const MAX_FILE_LINES: usize = 1000;
/// A function longer than this must be split.
const MAX_FUNCTION_LINES: usize = 70;

/// Findings: files and functions that are too long, files without `//!`.
pub(crate) fn check(metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for package in metadata.workspace_packages() {
        for (path, text) in sources(package)?
            .into_iter()
            .filter(|(path, _)| !is_test_source(path))
        {
            let shown = path.display();
            let lines = text
                .split("#[cfg(test)]")
                .next()
                .unwrap_or_default()
                .lines()
                .count();
            if lines > MAX_FILE_LINES {
                findings.push(format!(
                    "{shown} has {lines} lines, at most {MAX_FILE_LINES} are allowed"
                ));
            }
            if !text.trim_start().starts_with("//!") {
                findings.push(format!("{shown} has no module documentation (//!)"));
            }
            let file = syn::parse_file(&text)
                .map_err(|error| anyhow::anyhow!("parse {shown}: {error}"))?;
            let mut functions = Functions {
                lines: text.lines().collect(),
                long: Vec::new(),
            };
            functions.visit_file(&file);
            findings.extend(functions.long.into_iter().map(|(name, line, length)| {
                format!("{shown}:{line} fn {name} has {length} lines, at most {MAX_FUNCTION_LINES} are allowed")
            }));
        }
    }
    Ok(findings)
}

struct Functions<'a> {
    lines: Vec<&'a str>,
    long: Vec<(String, usize, usize)>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let start = signature.span().start().line;
        let length = block.span().end().line + 1 - start;
        let near = self.lines.iter().skip(start.saturating_sub(4)).take(7);
        let is_table = near.into_iter().any(|line| line.contains("// table:"));
        if length > MAX_FUNCTION_LINES && !is_table {
            self.long.push((signature.ident.to_string(), start, length));
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        path.segments
            .last()
            .is_some_and(|last| last.ident == "test")
            || (path.is_ident("cfg")
                && attribute
                    .parse_args::<syn::Ident>()
                    .is_ok_and(|inner| inner == "test"))
    })
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            self.measure(&item.sig, &item.block);
            syn::visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }
}
