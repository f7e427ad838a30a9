//! Which image the proxy runs.

/// Variants that a tag may already end with.
const VARIANTS: [&str; 2] = ["distroless", "debug"];

/// The reference of an image: `name` as it is when it is a whole reference, else joined from its parts.
/// A variant replaces the one that the tag ends with; the variant `default` removes it.
pub fn proxy_image(hub: &str, tag: &str, variant: &str, name: &str) -> String {
    if name.contains('/') {
        return name.to_owned();
    }
    let mut tag = tag.to_owned();
    if !variant.is_empty() {
        for known in VARIANTS {
            if let Some(bare) = tag.strip_suffix(&format!("-{known}")) {
                tag = bare.to_owned();
                break;
            }
        }
        if variant != "default" {
            tag = format!("{tag}-{variant}");
        }
    }
    if tag.is_empty() {
        format!("{hub}/{name}")
    } else {
        format!("{hub}/{name}:{tag}")
    }
}
