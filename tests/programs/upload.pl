# Uploads a file with HTTP::Tiny through the proxy in the environment and prints the status: upload.pl URL FILE
use strict;
use warnings;
use HTTP::Tiny;

my ($url, $file) = @ARGV;
open my $handle, '<:raw', $file or die $!;
my $content = do { local $/; <$handle> };
my $response = HTTP::Tiny->new(timeout => 20)->post($url, { content => $content });
print STDERR $response->{content} if $response->{status} == 599;
print $response->{status}, "\n";
