// A certified OpenID provider (npm `oidc-provider`) on loopback. argv: port, and its configuration as JSON:
// { clients: [...], accounts: { id: claims }, silent: false }. It says "ready" once it listens.
import Provider from "oidc-provider";

const [port, text] = process.argv.slice(2);
const { clients, accounts, ...more } = JSON.parse(text);

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients,
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["given_name", "family_name", "name"] },
  pkce: { required: () => true },
  features: { devInteractions: { enabled: true } },
  cookies: { keys: ["a", "b"] },
  findAccount: async (_context, id) =>
    accounts[id] && { accountId: id, claims: async () => ({ sub: id, ...accounts[id] }) },
  ...more,
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
