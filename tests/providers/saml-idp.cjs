// A SAML identity provider for tests: Auth0's `samlp` behind a form that asks for an account.
// argv: port, {"pairs": [{"key": PEM, "cert": PEM}, …], "accounts": {account: {"name", "format"?, "claims"}}}.
// POST /control sets what it does from then on: `pair` (which signs), `options` (of samlp), `asked` (what it takes from the
// request instead: audience, recipient, …), `fail`, `metadata` (a text of its own).
"use strict";
const http = require("http");
const samlp = require("samlp");

const [port, { pairs, accounts }] = [Number(process.argv[2]), JSON.parse(process.argv[3])];
let control = {};

function profileMapper(user) {
  return {
    getClaims: () => user.claims,
    getNameIdentifier: () => ({ nameIdentifier: user.name, nameIdentifierFormat: user.format }),
  };
}
profileMapper.prototype = { metadata: [] };

function options() {
  return {
    issuer: `http://127.0.0.1:${port}/metadata`,
    lifetimeInSeconds: 300,
    nameIdentifierFormat: "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent",
    ...pairs[control.pair || 0],
    ...control.options,
    profileMapper,
    getUserFromRequest: (req) => accounts[req.body.login],
  };
}

function parsed(req) {
  return new Promise((resolve) => {
    let body = "";
    req.on("data", (part) => (body += part));
    req.on("end", () => resolve(body));
  });
}

// samlp speaks to express; these few words of it are all that it says.
function dressed(req, res, url, body) {
  req.query = Object.fromEntries(url.searchParams);
  req.body = Object.fromEntries(new URLSearchParams(body));
  req.originalUrl = req.url;
  req.protocol = "http";
  res.set = (name, value) => res.setHeader(name, value);
  res.send = (first, second) => {
    if (typeof first === "number") res.statusCode = first;
    res.end(String(typeof first === "number" ? second || "" : first));
  };
}

async function serve(req, res) {
  const url = new URL(req.url, `http://127.0.0.1:${port}`);
  const body = await parsed(req);
  dressed(req, res, url, body);
  const failed = (error) => {
    res.statusCode = 500;
    res.end(String(error && error.stack));
  };
  if (url.pathname === "/control") {
    control = JSON.parse(body);
    return res.end("{}");
  }
  if (url.pathname === "/metadata") {
    if (control.metadata !== undefined) return res.end(control.metadata);
    const { issuer, cert } = options();
    return samlp.metadata({ issuer, cert, profileMapper, redirectEndpointPath: "/saml", postEndpointPath: "/saml" })(req, res, failed);
  }
  if (url.pathname === "/saml" && req.method === "GET") {
    res.setHeader("Content-Type", "text/html");
    return res.end('<form method="post" action=""><input name="login"><button>Sign in</button></form>');
  }
  if (url.pathname === "/saml") {
    return samlp.parseRequest(req, {}, (error, asked) => {
      if (error) return failed(error);
      const consumer = asked.assertionConsumerServiceURL;
      const all = { ...options(), recipient: consumer, destination: consumer, ...control.asked };
      if (control.fail) {
        const refusal = { ...all, inResponseTo: asked.id, RelayState: req.query.RelayState, error: { code: "urn:oasis:names:tc:SAML:2.0:status:AuthnFailed" } };
        return samlp.sendError({ ...refusal, getPostURL: (_req, done) => done(null, consumer) })(req, res, failed);
      }
      return samlp.auth({ ...all, getPostURL: (_audience, _dom, _req, done) => done(null, consumer) })(req, res, failed);
    });
  }
  res.statusCode = 404;
  res.end();
}

http
  .createServer((req, res) => {
    serve(req, res).catch((error) => {
      res.statusCode = 500;
      res.end(String(error && error.stack));
    });
  })
  .listen(port, "127.0.0.1", () => console.log("ready"));
