import { describe, expect, it } from "vitest";
import { BLANK, bodyOf, fieldOf, NO_SECRET } from "../../src/model/submission";

const FILLED = {
  ...BLANK,
  prompt: "x",
  setup: "npm ci\n",
  setupMinutes: "5",
  setupCache: " npm-1 ",
  secrets: [
    { ...NO_SECRET, name: "TRACKER", url: "https://api.example.com/ ", value: "tok-0123456789" },
    { ...NO_SECRET, name: "GIT", url: "https://git.example.com/", value: "0123456789", header: "X-Key" },
    { ...NO_SECRET, name: "PIP", url: "https://pip.example.com/", value: "0123456789", format: "Basic u:{}" },
  ],
};

describe("setup and secrets", () => {
  it("are left out where they are blank", () => {
    expect(Object.keys(bodyOf({ ...BLANK, prompt: "x" }))).toEqual(["prompt"]);
  });

  it("become the request's, a secret as a bearer token unless said", () => {
    const body = bodyOf(FILLED);
    expect(body["setup"]).toEqual({ run: "npm ci\n", timeout_seconds: 300, cache_key: "npm-1" });
    const bearer = { header: "Authorization", format: "Bearer {}" };
    expect(body["secrets"]).toEqual({
      TRACKER: { value: "tok-0123456789", url: "https://api.example.com/", inject: bearer },
      GIT: { value: "0123456789", url: "https://git.example.com/", inject: { header: "X-Key", format: "{}" } },
      PIP: {
        value: "0123456789",
        url: "https://pip.example.com/",
        inject: { header: "Authorization", format: "Basic u:{}" },
      },
    });
  });

  it("show the gateway's errors at their fields", () => {
    expect(fieldOf("setup.run")).toBe("setup");
    expect(fieldOf("setup.timeout_seconds")).toBe("setupMinutes");
    expect(fieldOf("secrets.TRACKER.url")).toBe("secrets");
  });
});

describe("a pull request", () => {
  const GIT = { ...BLANK, prompt: "x", source: "git" as const, url: "https://git.example.com/a/b.git" };

  it("is asked for by its branch, of a git repository only", () => {
    const wanted = { ...GIT, branch: "agent/fix ", base: "dev", credential: "bot", pullTitle: "Mend it" };
    const body = bodyOf(wanted);
    expect(body["result"]).toEqual({ branch: "agent/fix", base: "dev", pull_request: { title: "Mend it" } });
    expect(body["workspace"]).toEqual({ source: "git", url: GIT.url, credential: "bot" });
    expect(bodyOf({ ...wanted, source: "empty" })["result"]).toBeUndefined();
    expect(bodyOf(GIT)["result"]).toBeUndefined();
  });

  it("shows the gateway's errors at its fields", () => {
    expect(fieldOf("result.branch")).toBe("branch");
    expect(fieldOf("result.pull_request.title")).toBe("pullTitle");
  });
});
