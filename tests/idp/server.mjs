// A certified OAuth 2 server (npm oidc-provider) for tokenbroker's tests.
//
//   node server.mjs PKI_DIRECTORY      prints {"http": PORT, "https": PORT}, then runs until stdin ends
//
// PKI_DIRECTORY holds ca.pem, server.pem, server.key and self.pem (a self-signed client certificate).
// Lifetimes in seconds: AT_TTL, RT_TTL. Client secrets and the user's password are below.
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import path from 'node:path';
import { X509Certificate } from 'node:crypto';
import { Provider, errors } from 'oidc-provider';

const pki = (name) => fs.readFileSync(path.join(process.argv[2], name));
const seconds = (name, otherwise) => Number(process.env[name] ?? otherwise);
const accounts = { alice: 'wonderland' };

const selfSigned = new X509Certificate(pki('self.pem'));
const selfSignedJwk = {
  ...selfSigned.publicKey.export({ format: 'jwk' }), x5c: [selfSigned.raw.toString('base64')], kid: 'self',
};

const client = (client_id, more) => ({
  client_id, redirect_uris: ['http://127.0.0.1:7777/callback'], response_types: ['code'],
  grant_types: ['authorization_code', 'refresh_token', 'client_credentials', 'password'],
  scope: 'openid offline_access api:read api:write', ...more,
});

const provider = new Provider('http://127.0.0.1', {
  clients: [
    client('basic-app', { client_secret: 'basic secret+%:&' }),
    client('post-app', { client_secret: 'post-secret', token_endpoint_auth_method: 'client_secret_post' }),
    client('mtls-app', {
      token_endpoint_auth_method: 'tls_client_auth', tls_client_auth_subject_dn: 'CN=legacy-app',
      tls_client_certificate_bound_access_tokens: true,
    }),
    client('self-app', { token_endpoint_auth_method: 'self_signed_tls_client_auth', jwks: { keys: [selfSignedJwk] } }),
    client('public-app', { token_endpoint_auth_method: 'none', grant_types: ['authorization_code', 'refresh_token', 'password'] }),
  ],
  scopes: ['openid', 'offline_access', 'api:read', 'api:write'],
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'tls_client_auth', 'self_signed_tls_client_auth', 'none'],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true, allowedPolicy: () => true },
    mTLS: {
      enabled: true, certificateBoundAccessTokens: true, selfSignedTlsClientAuth: true, tlsClientAuth: true,
      getCertificate: (ctx) => ctx.socket.getPeerX509Certificate?.(),
      certificateAuthorized: (ctx) => ctx.socket.authorized === true,
      certificateSubjectMatches: (ctx, property, expected) =>
        property === 'tls_client_auth_subject_dn' && ctx.socket.getPeerX509Certificate()?.subject === expected,
    },
  },
  ttl: {
    AccessToken: seconds('AT_TTL', 3600), ClientCredentials: seconds('AT_TTL', 3600), RefreshToken: seconds('RT_TTL', 86400),
  },
  rotateRefreshToken: true,
  issueRefreshToken: async (ctx, requester) => requester.grantTypeAllowed('refresh_token'),
  findAccount: async (ctx, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  interactions: { url: () => '/' },
  cookies: { keys: ['test-only'] },
});

// OAuth 2.1 has no password grant; legacy vendors still do.
provider.registerGrantType('password', async (ctx) => {
  const { username, password, scope = 'openid offline_access api:read' } = ctx.oidc.params;
  const requester = ctx.oidc.client;
  if (accounts[username] !== password) throw new errors.InvalidGrant('bad username or password');
  const grant = new provider.Grant({ accountId: username, clientId: requester.clientId });
  grant.addOIDCScope(scope);
  const base = { accountId: username, client: requester, grantId: await grant.save(), gty: 'password', scope };
  const access = new provider.AccessToken(base);
  const refresh = new provider.RefreshToken({ ...base, rotations: 0, iiat: Math.floor(Date.now() / 1000) });
  ctx.oidc.entity('AccessToken', access);
  ctx.body = {
    access_token: await access.save(), expires_in: access.expiration, token_type: access.tokenType, scope,
    refresh_token: await refresh.save(),
  };
}, ['username', 'password', 'scope']);

// What the tests count: each token request that was answered, by grant.
const granted = [];
provider.on('grant.success', (ctx) => granted.push(ctx.oidc.params.grant_type));
provider.on('grant.error', (ctx, error) => granted.push(`${ctx.oidc.params?.grant_type}: ${error.error}`));
provider.use(async (ctx, next) => {
  if (ctx.path === '/granted') {
    ctx.body = granted;
    return;
  }
  await next();
});

const listen = (server) => new Promise((ready) => server.listen(0, '127.0.0.1', () => ready(server.address().port)));
const plain = await listen(http.createServer(provider.callback()));
const tls = await listen(https.createServer({
  key: pki('server.key'), cert: pki('server.pem'), ca: [pki('ca.pem')], requestCert: true, rejectUnauthorized: false,
}, provider.callback()));
console.log(JSON.stringify({ http: plain, https: tls }));
process.stdin.on('end', () => process.exit(0)).resume();
