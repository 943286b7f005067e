// A SAML identity provider for tests: Auth0's `samlp` behind a form that asks for an e-mail address.
// Usage: node saml-idp.cjs KEY CERT [KEY2 CERT2]; prints its port. POST /control sets options of samlp, as JSON;
// `keys: 1` signs with the second pair, `mapping: {…}` names the user's attributes, `fail: true` refuses the sign-in.
"use strict";
const fs = require("fs");
const http = require("http");
const path = require("path");
const samlp = require(require.resolve("samlp", { paths: [process.env.PROVIDER_MODULES || __dirname] }));

const files = process.argv.slice(2).map((name) => fs.readFileSync(path.resolve(name)));
const pairs = [];
for (let i = 0; i < files.length; i += 2) pairs.push({ key: files[i], cert: files[i + 1] });
let control = {};

function profileMapper(user) {
  return {
    getClaims: () => user.claims,
    getNameIdentifier: () => ({ nameIdentifier: user.name, nameIdentifierFormat: user.format }),
  };
}
profileMapper.prototype = { metadata: [] };

function options(port) {
  const pair = pairs[control.keys || 0];
  return {
    issuer: `urn:test:idp:${port}`,
    lifetimeInSeconds: 300,
    nameIdentifierFormat: "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent",
    ...pair,
    ...control.options,
    profileMapper,
    getUserFromRequest: (req) => ({
      name: (control.mapping || {}).name || `id-of-${req.body.email}`,
      format: (control.mapping || {}).format,
      claims: (control.mapping || {}).claims || {
        "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/emailaddress": req.body.email,
        "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/givenname": "Ann",
        "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/surname": "Archer",
      },
    }),
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

async function serve(req, res, port) {
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
    const { issuer, cert } = options(port);
    return samlp.metadata({ issuer, cert, profileMapper, redirectEndpointPath: "/saml", postEndpointPath: "/saml" })(req, res, failed);
  }
  if (url.pathname === "/saml" && req.method === "GET") {
    res.setHeader("Content-Type", "text/html");
    return res.end('<form method="post"><input name="email"><button>Sign in</button></form>');
  }
  if (url.pathname === "/saml") {
    return samlp.parseRequest(req, {}, (error, asked) => {
      if (error) return failed(error);
      const all = { ...options(port), recipient: asked.assertionConsumerServiceURL, destination: asked.assertionConsumerServiceURL };
      const consumer = asked.assertionConsumerServiceURL;
      if (control.fail) {
        const refusal = { ...all, inResponseTo: asked.id, RelayState: req.query.RelayState, error: { code: "urn:oasis:names:tc:SAML:2.0:status:AuthnFailed" } };
        return samlp.sendError({ ...refusal, getPostURL: (_req, done) => done(null, consumer) })(req, res, failed);
      }
      const merged = { ...all, ...control.options, getPostURL: (_audience, _dom, _req, done) => done(null, consumer) };
      return samlp.auth(merged)(req, res, failed);
    });
  }
  res.statusCode = 404;
  res.end();
}

const server = http.createServer((req, res) => {
  serve(req, res, server.address().port).catch((error) => {
    res.statusCode = 500;
    res.end(String(error && error.stack));
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
