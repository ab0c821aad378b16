//! Elements of a page, written so that the result is well-formed as XML and means the same as HTML.
//!
//! Owns: escaping. Must never: take text that is markup already, but for a style sheet.
//! Invariants: every element is closed; what HTML knows as empty has no end tag of its own.

use std::fmt::{self, Display, Formatter};

/// An element with what is in it.
#[derive(Clone, Debug)]
pub(crate) struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    inside: Vec<Node>,
}

#[derive(Clone, Debug)]
enum Node {
    Element(Element),
    Text(String),
    /// A style sheet of our own, which needs no escaping.
    Style(&'static str),
}

/// Elements that HTML closes by themselves.
const EMPTY: [&str; 3] = ["br", "hr", "meta"];

impl Element {
    /// One with nothing in it.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, attributes: Vec::new(), inside: Vec::new() }
    }

    /// With an attribute.
    pub(crate) fn with(mut self, name: &'static str, value: impl Display) -> Self {
        self.attributes.push((name, value.to_string()));
        self
    }

    /// With a place or a length, to a tenth of a unit.
    pub(crate) fn at(self, name: &'static str, value: f64) -> Self {
        assert!(value.is_finite(), "{name} is a place on the page");
        self.with(name, Place(value))
    }

    /// Of a class of the style sheet.
    pub(crate) fn class(self, name: impl Display) -> Self {
        self.with("class", name)
    }

    /// With text.
    pub(crate) fn text(mut self, text: impl Display) -> Self {
        self.inside.push(Node::Text(text.to_string()));
        self
    }

    /// With a style sheet.
    pub(crate) fn style(mut self, sheet: &'static str) -> Self {
        assert!(!sheet.contains(['<', '&']), "the style sheet would need escaping");
        self.inside.push(Node::Style(sheet));
        self
    }

    /// With an element in it.
    pub(crate) fn and(mut self, element: Self) -> Self {
        self.inside.push(Node::Element(element));
        self
    }

    /// With elements in it.
    pub(crate) fn all(mut self, elements: impl IntoIterator<Item = Self>) -> Self {
        self.inside.extend(elements.into_iter().map(Node::Element));
        self
    }
}

impl Display for Element {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "<{}", self.name)?;
        for (name, value) in &self.attributes {
            write!(out, " {name}=\"{}\"", Escaped(value))?;
        }
        if EMPTY.contains(&self.name) {
            assert!(self.inside.is_empty(), "{} holds nothing", self.name);
            return out.write_str("/>");
        }
        out.write_str(">")?;
        for node in &self.inside {
            match node {
                Node::Element(element) => element.fmt(out)?,
                Node::Text(text) => Escaped(text).fmt(out)?,
                Node::Style(sheet) => out.write_str(sheet)?,
            }
        }
        write!(out, "</{}>", self.name)
    }
}

/// A number of a drawing: short, and exact enough to look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(pub f64);

impl Display for Place {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let tenths = (self.0 * 10.0).round();
        // No negative nought.
        let tenths = if tenths == 0.0 { 0.0 } else { tenths };
        write!(out, "{}", tenths / 10.0)
    }
}

struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '<' => out.write_str("&lt;")?,
                '>' => out.write_str("&gt;")?,
                '&' => out.write_str("&amp;")?,
                '"' => out.write_str("&quot;")?,
                // XML has no place for other control characters, not even escaped.
                control if control.is_control() && control != '\n' => out.write_str(" ")?,
                other => write!(out, "{other}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_an_element_is_escaped() {
        let element = Element::new("p")
            .with("title", "a \"b\" & c")
            .text("1 < 2\u{7}")
            .and(Element::new("br"))
            .all([Element::new("i").at("x", -0.01), Element::new("i").at("x", 1.26)]);
        let expected = "<p title=\"a &quot;b&quot; &amp; c\">1 &lt; 2 <br/><i x=\"0\"></i>\
                        <i x=\"1.3\"></i></p>";
        assert_eq!(element.to_string(), expected);
        let parsed = roxmltree::Document::parse(expected).unwrap();
        assert_eq!(parsed.root_element().attribute("title"), Some("a \"b\" & c"));
    }
}
