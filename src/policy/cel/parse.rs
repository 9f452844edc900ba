//! A condition's tokens as a tree (CEL spec, "Syntax"), never deeper nor bigger than the limits.

use super::Refused;
use super::lex::{Lexed, Token, lex};
use crate::limits;

/// A part of a condition, and where it is written.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: usize,
    pub part: Part,
}

#[derive(Debug, Clone)]
pub(super) enum Part {
    Literal(Literal),
    List(Vec<Node>),
    Name(String),
    Select(Box<Node>, String),
    Index(Box<Node>, Box<Node>),
    /// Of a function, or of a method of the first argument.
    Call {
        name: String,
        method: bool,
        arguments: Vec<Node>,
    },
    Not(Box<Node>),
    Negate(Box<Node>),
    Binary(Operator, Box<Node>, Box<Node>),
    /// `&&`
    All(Vec<Node>),
    /// `||`
    Any(Vec<Node>),
    /// `?:`
    If(Box<[Node; 3]>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Operator {
    pub fn sign(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        }
    }

    fn relation(token: &Token) -> Option<Self> {
        Some(match token {
            Token::Sign("==") => Self::Equal,
            Token::Sign("!=") => Self::NotEqual,
            Token::Sign("<") => Self::Less,
            Token::Sign("<=") => Self::LessOrEqual,
            Token::Sign(">") => Self::Greater,
            Token::Sign(">=") => Self::GreaterOrEqual,
            Token::Name(name) if name == "in" => Self::In,
            _ => return None,
        })
    }

    fn sum(token: &Token) -> Option<Self> {
        Some(match token {
            Token::Sign("+") => Self::Add,
            Token::Sign("-") => Self::Subtract,
            _ => return None,
        })
    }

    fn product(token: &Token) -> Option<Self> {
        Some(match token {
            Token::Sign("*") => Self::Multiply,
            Token::Sign("/") => Self::Divide,
            Token::Sign("%") => Self::Remainder,
            _ => return None,
        })
    }
}

/// Reads a condition. What is too long is not looked at, and what is too deep or too big is left off there.
pub(super) fn parse(text: &str) -> Result<Node, Refused> {
    if text.len() > limits::CONDITION_BYTES {
        let (cap, found) = (limits::CONDITION_BYTES, text.len());
        let text = format!(
            "expected at most {cap} bytes (limit CONDITION_BYTES), found {found}; write several conditions, each has to hold"
        );
        return Err(Refused { at: 0, text });
    }
    let tokens = lex(text)?;
    let end = text.len();
    let mut parser = Parser { tokens: tokens.into_iter().peekable(), end, nodes: 0, depth: 0 };
    let node = parser.expression()?;
    match parser.next() {
        Lexed { token: Token::End, .. } => Ok(node),
        Lexed { token, at } => {
            let text = format!("expected an operator or the end, found {}", token.shown());
            Err(Refused { at, text })
        }
    }
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Lexed>>,
    end: usize,
    nodes: usize,
    depth: usize,
}

impl Parser {
    fn peek(&mut self) -> &Token {
        self.tokens.peek().map_or(&Token::End, |lexed| &lexed.token)
    }

    fn at(&mut self) -> usize {
        self.tokens.peek().map_or(self.end, |lexed| lexed.at)
    }

    fn next(&mut self) -> Lexed {
        self.tokens.next().unwrap_or(Lexed { token: Token::End, at: self.end })
    }

    /// Takes the next token if it is this.
    fn takes(&mut self, sign: &'static str) -> bool {
        let is = *self.peek() == Token::Sign(sign);
        if is {
            self.next();
        }
        is
    }

    fn expect(&mut self, sign: &'static str, after: &str) -> Result<(), Refused> {
        if self.takes(sign) {
            return Ok(());
        }
        let Lexed { token, at } = self.next();
        Err(Refused { at, text: format!("expected {sign} {after}, found {}", token.shown()) })
    }

    fn node(&mut self, at: usize, part: Part) -> Result<Node, Refused> {
        self.nodes += 1;
        if self.nodes > limits::CONDITION_NODES {
            let text = format!(
                "expected at most {} operands, operators and calls (limit CONDITION_NODES), found more; write several conditions, each has to hold, and compare with many values by in [...]",
                limits::CONDITION_NODES
            );
            return Err(Refused { at, text });
        }
        Ok(Node { at, part })
    }

    /// What is nested goes through here.
    fn expression(&mut self) -> Result<Node, Refused> {
        let at = self.at();
        self.depth += 1;
        if self.depth > limits::CONDITION_DEPTH {
            return Err(too_deep(at));
        }
        let condition = self.any()?;
        let node = if self.takes("?") {
            let yes = self.any()?;
            self.expect(":", "and what holds otherwise after ?")?;
            let no = self.expression()?;
            self.node(at, Part::If(Box::new([condition, yes, no])))?
        } else {
            condition
        };
        self.depth -= 1;
        Ok(node)
    }

    fn any(&mut self) -> Result<Node, Refused> {
        self.chain("||", Self::all, Part::Any)
    }

    fn all(&mut self) -> Result<Node, Refused> {
        self.chain("&&", Self::relation, Part::All)
    }

    fn chain(
        &mut self,
        sign: &'static str,
        operand: fn(&mut Self) -> Result<Node, Refused>,
        part: fn(Vec<Node>) -> Part,
    ) -> Result<Node, Refused> {
        let at = self.at();
        let first = operand(self)?;
        if *self.peek() != Token::Sign(sign) {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.takes(sign) {
            operands.push(operand(self)?);
        }
        self.node(at, part(operands))
    }

    fn relation(&mut self) -> Result<Node, Refused> {
        let left = self.sum()?;
        let at = self.at();
        let Some(operator) = Operator::relation(self.peek()) else { return Ok(left) };
        self.next();
        let right = self.sum()?;
        let again = self.at();
        if Operator::relation(self.peek()).is_some() {
            let text =
                "expected one comparison, found another one behind it; write && between them, or brackets";
            return Err(Refused { at: again, text: text.to_owned() });
        }
        self.node(at, Part::Binary(operator, Box::new(left), Box::new(right)))
    }

    fn sum(&mut self) -> Result<Node, Refused> {
        self.binary(Operator::sum, Self::product)
    }

    fn product(&mut self) -> Result<Node, Refused> {
        self.binary(Operator::product, Self::unary)
    }

    /// Grows to the left with each operand, so it counts for the depth.
    fn binary(
        &mut self,
        operator: fn(&Token) -> Option<Operator>,
        operand: fn(&mut Self) -> Result<Node, Refused>,
    ) -> Result<Node, Refused> {
        let mut left = operand(self)?;
        let mut operands = 1;
        loop {
            let at = self.at();
            let Some(operator) = operator(self.peek()) else { return Ok(left) };
            self.next();
            operands += 1;
            if self.depth + operands > limits::CONDITION_DEPTH {
                return Err(too_deep(at));
            }
            let right = operand(self)?;
            left = self.node(at, Part::Binary(operator, Box::new(left), Box::new(right)))?;
        }
    }

    fn unary(&mut self) -> Result<Node, Refused> {
        let mut signs = Vec::new();
        while let Token::Sign(sign @ ("!" | "-")) = *self.peek() {
            let at = self.at();
            self.next();
            signs.push((sign, at));
            if self.depth + signs.len() > limits::CONDITION_DEPTH {
                return Err(too_deep(at));
            }
        }
        let mut node = self.member()?;
        for (sign, at) in signs.into_iter().rev() {
            let part = match (sign, node.part) {
                ("!", part) => Part::Not(Box::new(Node { part, ..node })),
                (_, Part::Literal(Literal::Int(number))) => Part::Literal(Literal::Int(-number)),
                (_, Part::Literal(Literal::Double(number))) => Part::Literal(Literal::Double(-number)),
                (_, part) => Part::Negate(Box::new(Node { part, ..node })),
            };
            node = self.node(at, part)?;
        }
        Ok(node)
    }

    fn member(&mut self) -> Result<Node, Refused> {
        let mut node = self.primary()?;
        let mut links = 0;
        loop {
            let at = self.at();
            let link = matches!(self.peek(), Token::Sign("." | "["));
            if !link {
                return Ok(node);
            }
            links += 1;
            if self.depth + links > limits::CONDITION_DEPTH {
                return Err(too_deep(at));
            }
            if self.takes(".") {
                let Lexed { token, at: name_at } = self.next();
                let Token::Name(name) = token else {
                    let text =
                        format!("expected a field or a function after the point, found {}", token.shown());
                    return Err(Refused { at: name_at, text });
                };
                let part = if self.takes("(") {
                    let mut arguments = vec![node];
                    arguments.extend(self.list(")")?);
                    Part::Call { name, method: true, arguments }
                } else {
                    Part::Select(Box::new(node), name)
                };
                node = self.node(name_at, part)?;
            } else {
                self.next();
                let index = self.expression()?;
                self.expect("]", "after the index")?;
                node = self.node(at, Part::Index(Box::new(node), Box::new(index)))?;
            }
        }
    }

    fn primary(&mut self) -> Result<Node, Refused> {
        let Lexed { token, at } = self.next();
        let part = match token {
            Token::Int(number) => Part::Literal(Literal::Int(number)),
            Token::Double(number) => Part::Literal(Literal::Double(number)),
            Token::Text(text) => Part::Literal(Literal::Text(text)),
            Token::Name(name) => match name.as_str() {
                "true" => Part::Literal(Literal::Bool(true)),
                "false" => Part::Literal(Literal::Bool(false)),
                "null" => Part::Literal(Literal::Null),
                _ if self.takes("(") => Part::Call { name, method: false, arguments: self.list(")")? },
                _ => Part::Name(name),
            },
            Token::Sign("(") => {
                let node = self.expression()?;
                self.expect(")", "at the end of the bracket")?;
                return Ok(node);
            }
            Token::Sign("[") => Part::List(self.list("]")?),
            Token::Sign("{") => {
                let text = "expected a value, found a map; maps and messages are not made in conditions, compare field by field";
                return Err(Refused { at, text: text.to_owned() });
            }
            token => {
                return Err(Refused { at, text: format!("expected a value, found {}", token.shown()) });
            }
        };
        self.node(at, part)
    }

    /// Expressions with commas between, up to the bracket.
    fn list(&mut self, end: &'static str) -> Result<Vec<Node>, Refused> {
        let mut all = Vec::new();
        loop {
            // A list may have a comma behind its last element, arguments may not.
            if (all.is_empty() || end == "]") && self.takes(end) {
                return Ok(all);
            }
            all.push(self.expression()?);
            if !self.takes(",") {
                self.expect(end, "or a comma")?;
                return Ok(all);
            }
        }
    }
}

pub(super) fn too_deep(at: usize) -> Refused {
    let text = format!(
        "expected a depth of at most {} (limit CONDITION_DEPTH), found more; write several conditions, each has to hold",
        limits::CONDITION_DEPTH
    );
    Refused { at, text }
}
