//! The HTML of the product page: works without scripts, by keyboard, in light and dark.

use std::fmt::Write;

use serde_json::Value;

use super::productpage::Section;

/// Style sheet of all pages.
pub(super) const STYLE: &str = include_str!("bookinfo.css");

/// Text made harmless for HTML.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn shell(user: Option<&str>, main: &str) -> String {
    let account = user.map_or_else(
        || {
            "<form class=\"sign-in\" method=\"post\" action=\"/login\"><label for=\"username\">User name</label>\
             <input id=\"username\" name=\"username\" autocomplete=\"username\" required maxlength=\"64\">\
             <button type=\"submit\">Sign in</button></form>"
                .to_owned()
        },
        |user| format!("<p class=\"account\">Signed in as <strong>{}</strong> <a href=\"/logout\">sign out</a></p>", escape(user)),
    );
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Simple Bookstore App</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><style>{STYLE}</style></head>\
         <body><header><a class=\"brand\" href=\"/productpage\">Bookinfo</a>{account}</header><main>{main}</main>\
         <footer>A sample of the Meltemi service mesh</footer></body></html>\n"
    )
}

/// The entry page.
pub(super) fn index() -> String {
    shell(
        None,
        "<h1>Bookinfo</h1><p>A bookstore with one book and four services.</p><p><a class=\"button\" href=\"/productpage\">Open the product page</a></p>",
    )
}

/// The page of one product. `description` is HTML of our own.
pub(super) fn product(
    title: &str,
    description: &str,
    details: &Section,
    reviews: &Section,
    user: Option<&str>,
) -> String {
    let main = format!(
        "<h1>{}</h1><p class=\"summary\">{description}</p><div class=\"columns\"><section aria-labelledby=\"details\">\
         <h2 id=\"details\">Book Details</h2>{}</section><section aria-labelledby=\"reviews\">\
         <h2 id=\"reviews\">Book Reviews</h2>{}</section></div>",
        escape(title),
        details_section(details),
        reviews_section(reviews),
    );
    shell(user, &main)
}

fn failure(heading: &str, sentence: &str) -> String {
    format!(
        "<div class=\"failure\" role=\"alert\"><h3>{heading}</h3><p>{}</p></div>",
        escape(sentence)
    )
}

fn details_section(details: &Section) -> String {
    let book = match details {
        Ok(book) => book,
        Err(sentence) => return failure("Error fetching product details!", sentence),
    };
    let rows = [
        ("Type", "type"),
        ("Pages", "pages"),
        ("Publisher", "publisher"),
        ("Language", "language"),
        ("ISBN-10", "ISBN-10"),
        ("ISBN-13", "ISBN-13"),
    ];
    let mut out = String::from("<dl>");
    for (label, key) in rows {
        let value = book.get(key).map(text_of).unwrap_or_default();
        let _ = write!(
            out,
            "<div><dt>{label}</dt><dd>{}</dd></div>",
            escape(&value)
        ); // a String takes everything
    }
    out + "</dl>"
}

fn reviews_section(reviews: &Section) -> String {
    let document = match reviews {
        Ok(document) => document,
        Err(sentence) => return failure("Error fetching product reviews!", sentence),
    };
    let mut out = String::new();
    for review in document
        .get("reviews")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let text = |key: &str| {
            review
                .get(key)
                .and_then(Value::as_str)
                .map(escape)
                .unwrap_or_default()
        };
        let _ = write!(
            out,
            "<figure class=\"review\"><blockquote>{}</blockquote>{}<figcaption>{}</figcaption></figure>",
            text("text"),
            review.get("rating").map(stars).unwrap_or_default(),
            text("reviewer")
        );
    }
    if let Some(pod) = document
        .get("podname")
        .and_then(Value::as_str)
        .filter(|pod| !pod.is_empty())
    {
        let _ = write!(
            out,
            "<p class=\"served\">Reviews served by: <code>{}</code></p>",
            escape(pod)
        );
    }
    out
}

/// The stars of one review: the colour is a class and the count is text for screen readers.
fn stars(rating: &Value) -> String {
    if let Some(error) = rating.get("error").and_then(Value::as_str) {
        return format!("<p class=\"no-stars\">{}</p>", escape(error));
    }
    let count = rating
        .get("stars")
        .and_then(Value::as_u64)
        .unwrap_or(0)
        .min(5);
    let color = match rating.get("color").and_then(Value::as_str) {
        Some("red") => "red",
        _ => "black",
    };
    let full = usize::try_from(count).unwrap_or(0);
    format!(
        "<p class=\"stars\" data-color=\"{color}\" aria-label=\"{count} of 5 stars\"><font color=\"{color}\">{}</font><span class=\"empty\">{}</span></p>",
        "<span class=\"glyphicon glyphicon-star\" aria-hidden=\"true\">★</span>".repeat(full),
        "<span class=\"glyphicon glyphicon-star-empty\" aria-hidden=\"true\">☆</span>"
            .repeat(5 - full)
    )
}

fn text_of(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_services_answer_is_escaped() {
        let reviews = Ok(
            json!({"reviews": [{"reviewer": "<b>", "text": "\"'&", "rating": {"stars": 99, "color": "red"}}]}),
        );
        let html = product("t", "d", &Err("<x>".into()), &reviews, Some("a"));
        assert!(
            html.contains("&lt;b&gt;")
                && html.contains("&quot;&#39;&amp;")
                && html.contains("&lt;x&gt;")
        );
        assert_eq!(html.matches("glyphicon-star\"").count(), 5);
    }

    #[test]
    fn stars_show_their_colour_and_v1_shows_none() {
        let with = |color: &str| {
            Ok(
                json!({"reviews": [{"reviewer": "r", "text": "t", "rating": {"stars": 4, "color": color}}]}),
            )
        };
        let html = |reviews: &Section| product("t", "d", &Ok(json!({})), reviews, None);
        assert!(html(&with("red")).contains("color=\"red\""));
        assert!(html(&with("black")).contains("color=\"black\""));
        let without = Ok(json!({"reviews": [{"reviewer": "r", "text": "t"}]}));
        assert!(!html(&without).contains("glyphicon-star"));
    }
}
