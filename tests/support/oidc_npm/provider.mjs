// oidc-provider on a free loopback port, with one public client and access tokens for one gateway.
// argv: audience of the tokens, seconds that an access token is valid, project of its claim. Prints the issuer.
import { createServer } from "node:http";
import { createRequire } from "node:module";

const { default: Provider } = await import(createRequire(`${process.cwd()}/`).resolve("oidc-provider"));
const [audience, seconds, project] = process.argv.slice(2);
const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const resource = {
    scope: "",
    audience,
    accessTokenFormat: "jwt",
    accessTokenTTL: Number(seconds),
    jwt: { sign: { alg: "RS256" } },
  };
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: "ocf",
        token_endpoint_auth_method: "none",
        grant_types: ["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"],
        response_types: [],
        redirect_uris: [],
      },
    ],
    features: {
      deviceFlow: { enabled: true },
      resourceIndicators: { enabled: true, getResourceServerInfo: () => resource },
    },
    extraTokenClaims: () => ({ projects: [project] }),
  });
  provider.use(async (ctx, next) => {
    await next();
    // The field that it leaves out (RFC 8628, 3.2): polled each second instead of each five.
    if (ctx.oidc?.route === "device_authorization" && ctx.body?.device_code) ctx.body.interval = 1;
  });
  server.on("request", provider.callback());
  process.stdout.write(`${issuer}\n`);
});
