import { Component, type ReactNode } from "react";
import { ApiError } from "../api/client";
import { Failure } from "./parts";

interface Props {
  readonly children: ReactNode;
  /** Nothing else is on the page: see `Empty`. */
  readonly alone?: boolean;
}

/**
 * Keeps the page when a part of it cannot be loaded or shown: the part says so in its place.
 *
 * Loading the page again helps: a browser keeps a module that it could not load as failed, and after an upgrade the
 * page's own modules are no longer there. React itself logs what is caught.
 */
export class ErrorBoundary extends Component<Props, { readonly error: Error | null }> {
  override state: { readonly error: Error | null } = { error: null };

  static getDerivedStateFromError(error: unknown): { error: Error } {
    return { error: error instanceof Error ? error : new Error(String(error)) };
  }

  override render(): ReactNode {
    const { error } = this.state;
    if (!error) return this.props.children;
    const text = `This part of the page could not be loaded or shown (${error.message}). What runs, keeps running.`;
    return (
      <Failure
        error={new ApiError(text, -1)}
        alone={this.props.alone ?? false}
        retry="Reload"
        onRetry={() => window.location.reload()}
      />
    );
  }
}
