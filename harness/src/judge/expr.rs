//! The language of `check`: comparisons of measured quantities, joined by `and`, `or`, `not`, with arithmetic.
//!
//! ```text
//! handover.interruption_ms < 10 * ping.rtt_avg_ms + 50 and flow.bulk.connections == 1
//! ```
//! Every node knows its place in the text, so that `check FILE` can point at an unknown name or a comparison of a text with a number.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

/// What a quantity or an expression amounts to.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A number, in the unit that its name says.
    Number(f64),
    /// A truth.
    Truth(bool),
    /// A text, such as an address.
    Text(String),
}

/// Of what kind a [`Value`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// [`Value::Number`]
    Number,
    /// [`Value::Truth`]
    Truth,
    /// [`Value::Text`]
    Text,
}

impl Value {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Value::Number(_) => Kind::Number,
            Value::Truth(_) => Kind::Truth,
            Value::Text(_) => Kind::Text,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) if number.fract() == 0.0 && number.abs() < 1e15 => write!(f, "{number:.0}"),
            Value::Number(number) => write!(f, "{number:.3}"),
            Value::Truth(truth) => write!(f, "{truth}"),
            Value::Text(text) => write!(f, "{text:?}"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Number => "a number",
            Kind::Truth => "true or false",
            Kind::Text => "a text",
        })
    }
}

/// A parsed expression with its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr {
    /// As written.
    pub text: String,
    root: Node,
}

/// What is wrong with an expression, and where in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExprError {
    /// Bytes of the expression's text.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
}

#[derive(Debug, Clone, PartialEq)]
struct Node {
    span: Range<usize>,
    what: What,
}

#[derive(Debug, Clone, PartialEq)]
enum What {
    Literal(Value),
    Name(String),
    Not(Box<Node>),
    Negate(Box<Node>),
    Both(Op, Box<Node>, Box<Node>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Or,
    And,
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
}

/// Parentheses and signs nest at most so deep: the parser and the walks recurse.
const DEPTH: usize = 64;

impl Expr {
    /// The names it uses, each with its place, in the order of the text.
    pub fn names(&self) -> Vec<(&str, Range<usize>)> {
        let mut out = Vec::new();
        names(&self.root, &mut out);
        out
    }

    /// Checks kinds, given the kind of each name (`None`: not to be judged, its own error is reported elsewhere).
    /// The whole must be a truth.
    pub fn check(&self, kind_of: &impl Fn(&str) -> Option<Kind>) -> Result<(), ExprError> {
        match check(&self.root, kind_of)? {
            None | Some(Kind::Truth) => Ok(()),
            Some(kind) => Err(ExprError {
                span: self.root.span.clone(),
                message: format!(
                    "an expectation is true or false; this is {kind}: compare it with something"
                ),
            }),
        }
    }

    /// Its kind, given that of each name (`None`: cannot be told).
    pub fn kind(&self, kind_of: &impl Fn(&str) -> Option<Kind>) -> Result<Option<Kind>, ExprError> {
        check(&self.root, kind_of)
    }

    /// What it amounts to, given the value of each name. The error is that of the first name without a value.
    pub fn value<E>(&self, value_of: &impl Fn(&str) -> Result<Value, E>) -> Result<Value, E> {
        evaluate(&self.root, value_of)
    }

    /// Its truth as far as it can be told without the names that are open: `None` where it could be either. The error of a name without a
    /// value counts as open, too.
    pub fn settled<E>(
        &self,
        value_of: &impl Fn(&str) -> Result<Value, E>,
        is_open: &impl Fn(&str) -> bool,
    ) -> Option<bool> {
        settle(&self.root, value_of, is_open)
    }

    /// Its truth, given the value of each name. The error is that of the first name without a value.
    pub fn holds<E>(&self, value_of: &impl Fn(&str) -> Result<Value, E>) -> Result<bool, E> {
        Ok(self.value(value_of)? == Value::Truth(true))
    }
}

fn check(node: &Node, kind_of: &impl Fn(&str) -> Option<Kind>) -> Result<Option<Kind>, ExprError> {
    let want = |node: &Node, kind: Kind| match check(node, kind_of)? {
        Some(other) if other != kind => Err(ExprError {
            span: node.span.clone(),
            message: format!("this is {other}, but {kind} is needed here"),
        }),
        _ => Ok(Some(kind)),
    };
    match &node.what {
        What::Literal(value) => Ok(Some(value.kind())),
        What::Name(name) => Ok(kind_of(name)),
        What::Not(inner) => want(inner, Kind::Truth),
        What::Negate(inner) => want(inner, Kind::Number),
        What::Both(op, left, right) => match op {
            Op::Or | Op::And => want(left, Kind::Truth).and_then(|_| want(right, Kind::Truth)),
            Op::Equal | Op::Unequal => {
                if let Some(kind) = check(left, kind_of)? {
                    want(right, kind)?;
                }
                Ok(Some(Kind::Truth))
            }
            Op::Less | Op::LessEqual | Op::Greater | Op::GreaterEqual => {
                want(left, Kind::Number)?;
                want(right, Kind::Number)?;
                Ok(Some(Kind::Truth))
            }
            Op::Add | Op::Subtract | Op::Multiply | Op::Divide => {
                want(left, Kind::Number).and_then(|_| want(right, Kind::Number))
            }
        },
    }
}

fn names<'a>(node: &'a Node, out: &mut Vec<(&'a str, Range<usize>)>) {
    match &node.what {
        What::Literal(_) => {}
        What::Name(name) => out.push((name, node.span.clone())),
        What::Not(inner) | What::Negate(inner) => names(inner, out),
        What::Both(_, left, right) => {
            names(left, out);
            names(right, out);
        }
    }
}

/// Kleene's logic: what is open may be either, and so may what depends on it.
fn settle<E>(
    node: &Node,
    value_of: &impl Fn(&str) -> Result<Value, E>,
    is_open: &impl Fn(&str) -> bool,
) -> Option<bool> {
    let of = |node: &Node| settle(node, value_of, is_open);
    match &node.what {
        What::Not(inner) => of(inner).map(|truth| !truth),
        What::Both(Op::And, left, right) => match (of(left), of(right)) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        },
        What::Both(Op::Or, left, right) => match (of(left), of(right)) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        },
        _ => {
            let mut its = Vec::new();
            names(node, &mut its);
            if its.iter().any(|(name, _)| is_open(name)) {
                return None;
            }
            evaluate(node, value_of).ok().map(|value| value == Value::Truth(true))
        }
    }
}

fn evaluate<E>(node: &Node, value_of: &impl Fn(&str) -> Result<Value, E>) -> Result<Value, E> {
    let number = |node: &Node| {
        Ok(match evaluate(node, value_of)? {
            Value::Number(number) => number,
            _ => f64::NAN,
        })
    };
    let truth = |node: &Node| Ok(evaluate(node, value_of)? == Value::Truth(true));
    Ok(match &node.what {
        What::Literal(value) => value.clone(),
        What::Name(name) => value_of(name)?,
        What::Not(inner) => Value::Truth(!truth(inner)?),
        What::Negate(inner) => Value::Number(-number(inner)?),
        What::Both(op, left, right) => match op {
            Op::Or => Value::Truth(truth(left)? || truth(right)?),
            Op::And => Value::Truth(truth(left)? && truth(right)?),
            Op::Equal => Value::Truth(evaluate(left, value_of)? == evaluate(right, value_of)?),
            Op::Unequal => Value::Truth(evaluate(left, value_of)? != evaluate(right, value_of)?),
            Op::Less => Value::Truth(number(left)? < number(right)?),
            Op::LessEqual => Value::Truth(number(left)? <= number(right)?),
            Op::Greater => Value::Truth(number(left)? > number(right)?),
            Op::GreaterEqual => Value::Truth(number(left)? >= number(right)?),
            Op::Add => Value::Number(number(left)? + number(right)?),
            Op::Subtract => Value::Number(number(left)? - number(right)?),
            Op::Multiply => Value::Number(number(left)? * number(right)?),
            Op::Divide => Value::Number(number(left)? / number(right)?),
        },
    })
}

/// Reads `text` as an expression.
pub fn parse(text: &str) -> Result<Expr, ExprError> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, at: 0, end: text.len() };
    let root = parser.binary(0, 0)?;
    match parser.tokens.get(parser.at) {
        None => Ok(Expr { text: text.to_owned(), root }),
        Some(token) => Err(error(token.span.clone(), format!("{} cannot stand here", token.what))),
    }
}

fn error(span: Range<usize>, message: impl Into<String>) -> ExprError {
    ExprError { span, message: message.into() }
}

#[derive(Debug, Clone)]
struct Token {
    span: Range<usize>,
    what: TokenKind,
}

#[derive(Debug, Clone, PartialEq)]
enum TokenKind {
    Literal(Value),
    Name(String),
    Symbol(&'static str),
}

impl fmt::Display for TokenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenKind::Literal(value) => write!(f, "{value}"),
            TokenKind::Name(name) => write!(f, "`{name}`"),
            TokenKind::Symbol(symbol) => write!(f, "`{symbol}`"),
        }
    }
}

/// Longer ones first: `<=` is not `<` and `=`.
const SYMBOLS: &[&str] = &["==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "(", ")"];

fn tokens(text: &str) -> Result<Vec<Token>, ExprError> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (length, what) = if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        } else if first == '"' || first == '\'' {
            let close = rest[1..]
                .find(first)
                .ok_or_else(|| error(at..text.len(), "this text has no closing quote"))?;
            (close + 2, TokenKind::Literal(Value::Text(rest[1..=close].to_owned())))
        } else if first.is_ascii_alphanumeric() || first == '_' {
            let length = rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.')))
                .unwrap_or(rest.len());
            (length, word(&rest[..length]).map_err(|message| error(at..at + length, message))?)
        } else if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            (symbol.len(), TokenKind::Symbol(symbol))
        } else if first == '=' {
            return Err(error(at..at + 1, "`=` is no comparison: write `==`"));
        } else {
            return Err(error(at..at + first.len_utf8(), format!("{first:?} cannot stand in an expression")));
        };
        out.push(Token { span: at..at + length, what });
        at += length;
    }
    Ok(out)
}

fn word(word: &str) -> Result<TokenKind, String> {
    Ok(match word {
        "and" => TokenKind::Symbol("and"),
        "or" => TokenKind::Symbol("or"),
        "not" => TokenKind::Symbol("not"),
        "true" => TokenKind::Literal(Value::Truth(true)),
        "false" => TokenKind::Literal(Value::Truth(false)),
        number if number.starts_with(|c: char| c.is_ascii_digit()) => {
            let value = number.parse().map_err(|_| {
                format!(
                    "{number:?} is no number: quantities are compared without units, their names say them"
                )
            })?;
            TokenKind::Literal(Value::Number(value))
        }
        name => TokenKind::Name(name.to_owned()),
    })
}

/// From the loosest binding to the tightest.
const LEVELS: &[&[(&str, Op)]] = &[
    &[("or", Op::Or)],
    &[("and", Op::And)],
    &[
        ("==", Op::Equal),
        ("!=", Op::Unequal),
        ("<", Op::Less),
        ("<=", Op::LessEqual),
        (">", Op::Greater),
        (">=", Op::GreaterEqual),
    ],
    &[("+", Op::Add), ("-", Op::Subtract)],
    &[("*", Op::Multiply), ("/", Op::Divide)],
];
const COMPARISON: usize = 2;

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    end: usize,
}

impl Parser<'_> {
    fn symbol(&self) -> Option<&'static str> {
        match self.tokens.get(self.at)?.what {
            TokenKind::Symbol(symbol) => Some(symbol),
            _ => None,
        }
    }

    fn binary(&mut self, level: usize, depth: usize) -> Result<Node, ExprError> {
        let Some(ops) = LEVELS.get(level) else { return self.unary(depth) };
        // `not` binds looser than a comparison and tighter than `and`.
        if level == COMPARISON && self.symbol() == Some("not") {
            return self.prefix(depth, level, What::Not);
        }
        let mut left = self.binary(level + 1, depth)?;
        let mut count = 0;
        while let Some(op) =
            self.symbol().and_then(|symbol| ops.iter().find(|(name, _)| *name == symbol)).map(|(_, op)| *op)
        {
            count += 1;
            if level == COMPARISON && count > 1 {
                let span = self.tokens[self.at].span.clone();
                return Err(error(span, "comparisons cannot be chained: join two by `and`"));
            }
            self.at += 1;
            let right = self.binary(level + 1, depth)?;
            let span = left.span.start..right.span.end;
            left = Node { span, what: What::Both(op, Box::new(left), Box::new(right)) };
        }
        Ok(left)
    }

    fn unary(&mut self, depth: usize) -> Result<Node, ExprError> {
        let Some(token) = self.tokens.get(self.at).cloned() else {
            return Err(error(
                self.end..self.end,
                "the expression ends where a quantity or a number is needed",
            ));
        };
        match token.what {
            TokenKind::Symbol("-") => self.prefix(depth, LEVELS.len(), What::Negate),
            TokenKind::Symbol("(") => {
                self.deeper(depth)?;
                self.at += 1;
                let inner = self.binary(0, depth + 1)?;
                if self.symbol() != Some(")") {
                    return Err(error(token.span, "this parenthesis is not closed"));
                }
                let end = self.tokens[self.at].span.end;
                self.at += 1;
                Ok(Node { span: token.span.start..end, what: inner.what })
            }
            TokenKind::Symbol(symbol) => Err(error(
                token.span,
                format!("`{symbol}` cannot stand here: a quantity or a number is needed"),
            )),
            TokenKind::Literal(value) => {
                self.at += 1;
                Ok(Node { span: token.span, what: What::Literal(value) })
            }
            TokenKind::Name(name) => {
                self.at += 1;
                Ok(Node { span: token.span, what: What::Name(name) })
            }
        }
    }

    fn prefix(
        &mut self,
        depth: usize,
        level: usize,
        what: impl Fn(Box<Node>) -> What,
    ) -> Result<Node, ExprError> {
        self.deeper(depth)?;
        let start = self.tokens[self.at].span.start;
        self.at += 1;
        let inner = self.binary(level, depth + 1)?;
        Ok(Node { span: start..inner.span.end, what: what(Box::new(inner)) })
    }

    fn deeper(&self, depth: usize) -> Result<(), ExprError> {
        let span = self.tokens.get(self.at).map_or(self.end..self.end, |token| token.span.clone());
        if depth < DEPTH { Ok(()) } else { Err(error(span, "the expression is nested too deeply")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(text: &str) -> bool {
        let value = |name: &str| match name {
            "a.b_ms" => Ok(Value::Number(7.0)),
            "flow.x.1.addr" => Ok(Value::Text("10.0.0.1".into())),
            "up" => Ok(Value::Truth(true)),
            other => Err(other.to_owned()),
        };
        parse(text).unwrap().holds(&value).unwrap()
    }

    #[test]
    fn precedence_is_that_of_arithmetic() {
        assert!(truth("1 + 2 * 3 == 7 and a.b_ms == 7"));
        assert!(truth("(1 + 2) * 3 == 9 or a.b_ms > 100"));
        assert!(truth("10 - 2 - 3 == 5 and -a.b_ms < -6.5 and 7/2 == 3.5"));
        assert!(truth("not a.b_ms > 8 and up"));
        assert!(truth("flow.x.1.addr == \"10.0.0.1\" and flow.x.1.addr != 'x'"));
        assert!(!truth("up and not up or false"));
    }

    #[test]
    fn a_name_without_value_is_the_error() {
        let expr = parse("x.y < 4").unwrap();
        assert_eq!(expr.holds(&|name| Err(name.to_owned())), Err("x.y".to_owned()));
        assert_eq!(expr.names(), [("x.y", 0..3)]);
    }

    #[test]
    fn mistakes_are_pointed_at() {
        let at = |text: &str| {
            let error = parse(text).unwrap_err();
            (error.span, error.message)
        };
        assert_eq!(at("a = 1").0, 2..3);
        assert_eq!(at("a < 400ms").0, 4..9);
        assert!(at("a < 400ms").1.contains("without units"));
        assert_eq!(at("a <").0, 3..3);
        assert_eq!(at("(a < 3").1, "this parenthesis is not closed");
        assert!(at("1 < a < 3").1.contains("chained"));
        assert_eq!(at("a b").0, 2..3);
        assert!(at("é").1.contains("cannot stand"));
        assert!(at(&"(".repeat(1000)).1.contains("too deeply"));
        assert!(at(&"-".repeat(1000)).1.contains("too deeply"));
    }

    #[test]
    fn kinds_must_agree() {
        let check = |text: &str| {
            parse(text).unwrap().check(&|name| match name {
                "n" => Some(Kind::Number),
                "t" => Some(Kind::Text),
                _ => None,
            })
        };
        assert!(check("n < 3 and t == 'x' and unknown").is_ok());
        assert_eq!(check("t < 3").unwrap_err().span, 0..1);
        assert_eq!(check("n == 'x'").unwrap_err().span, 5..8);
        assert!(check("n + 1").unwrap_err().message.contains("compare it"));
    }
}
